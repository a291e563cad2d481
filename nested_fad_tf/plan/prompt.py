"""Lets the forward pass wait until a derivative is computed, and packed.

Nothing reads a derivative before the backward pass, and the executor runs on with the next layer:
at the end of the forward pass all that derivatives are computed from would be there, or all of them
at full width, still to be packed. So the ops that begin the next layer wait. They are given an
identity of what they read, which waits for the derivative.

No cycle can come about. All that a derivative is computed from in the forward pass comes, in the
order of the view, no later than its latest source, and only ops after that wait for it.
"""

from __future__ import annotations

import heapq

from nested_fad_tf.graph.nodes import Node
from nested_fad_tf.graph.roles import Role
from nested_fad_tf.ops import elementwise, parts, views
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.rewrite import RewriteBuilder


class Prompt:
    """Collects who waits for what.

    Args:
        candidates: The graph, with its roles.
        builder: The rewrite to extend.
    """

    def __init__(self, candidates: Candidates, builder: RewriteBuilder) -> None:
        self._candidates = candidates
        self._builder = builder
        self._gates: dict[tuple[int, int], Node] = {}  # by node id and input: the identity

    def run_early(self, source: int, made: Node) -> None:
        """Lets what follows an element-wise chain wait.

        Args:
            source: Node id of the latest op of the forward pass that a derivative is computed from;
                -1 if there is none, and nobody need wait.
            made: The op that computes the derivative, or packs it.
        """
        for reader, index in self._next_layer(source):
            if (reader.id, index) not in self._gates:
                value = reader.inputs[index]
                gate = self._builder.add(
                    "Identity",
                    [value],
                    [(value.dtype, value.shape)],
                    origin=value.node,
                    suffix="/prompt",
                    attrs={"T": value.dtype},
                )
                self._builder.redirect(reader, index, gate.outputs[0])
                self._gates[reader.id, index] = gate
            self._gates[reader.id, index].controls.append(made)

    def _next_layer(self, source: int) -> list[tuple[Node, int]]:
        """The first ops after a chain that aren't element-wise, and which input leads to them.

        An element-wise op that also reads what is computed after the source, such as the sum with a
        later layer's result, belongs to a later chain.
        """
        found = []
        inside = {source}
        pending = [source] if source >= 0 else []
        nodes = self._candidates.view.nodes
        while pending:
            node = nodes[heapq.heappop(pending)]
            for reader, index in self._readers(node):
                if reader.op_type not in elementwise.TABLE and reader.op_type not in views.ALIASES:
                    found.append((reader, index))
                elif reader.id not in inside and self._continues(reader, source, inside):
                    inside.add(reader.id)
                    heapq.heappush(pending, reader.id)
        return found

    def _readers(self, node: Node) -> list[tuple[Node, int]]:
        view, late = self._candidates.view, self._candidates.late
        return [
            (reader, index)
            for out in node.outputs
            if out.dtype.is_floating or out.dtype.is_bool
            for reader, index in view.consumers[out.id]
            if view.live[reader.id]
            and not late[reader.id]
            and self._candidates.roles.of(reader) is Role.FORWARD
            and reader.op_type not in views.SHAPE_ONLY
            and reader.op_type not in parts.TABLE
        ]

    def _continues(self, node: Node, source: int, inside: set[int]) -> bool:
        return all(
            v.node.id <= source or v.node.id in inside or self._candidates.is_free(v)
            for v in node.inputs
        )
