"""A graph with a rewrite applied on paper: what each node reads and waits for, and what runs."""

from __future__ import annotations

from collections.abc import Sequence

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.plan.rewrite import Rewrite

# States of a node in a depth-first search: on the path to the one that is looked at; dealt with.
_OPEN, _DONE = 1, 2


class CycleError(ValueError):
    """A rewritten graph would wait for itself."""


class Wiring:
    """The edges of a rewritten graph; the groups of the rewrite don't change them.

    Attributes:
        view: The graph that is rewritten.
        rewrite: What is done to it; groups may follow.
        nodes: The view's nodes, then the rewrite's; indexed by node id.
        inputs: What each of them reads, redirections applied; indexed by node id.
        controls: What each of them waits for without reading it; indexed by node id.
        live: Whether each of them runs.
        order: Those that run, each after what it reads and waits for.
    """

    def __init__(self, view: GraphView, rewrite: Rewrite) -> None:
        """Applies a rewrite.

        Raises:
            CycleError: If a node would wait for itself.
        """
        self.view = view
        self.rewrite = rewrite
        self.nodes: list[Node] = [*view.nodes, *rewrite.nodes]
        self.inputs: list[Sequence[Value]] = [node.inputs for node in self.nodes]
        for (node_id, index), value in rewrite.redirects.items():
            inputs = list(self.inputs[node_id])
            inputs[index] = value
            self.inputs[node_id] = inputs
        self.controls: list[Sequence[Node]] = [node.controls for node in self.nodes]
        for node_id in rewrite.released:
            self.controls[node_id] = ()
        self.live = view.reachable(self.inputs, self.controls)
        self.order = self._sorted()

    def _sorted(self) -> list[Node]:
        """As traced, with added nodes moved up to where they are read."""
        if not self.rewrite.redirects:
            return [node for node in self.view.nodes if self.live[node.id]]
        state = bytearray(len(self.nodes))
        order: list[Node] = []
        for start in self.nodes:
            stack = [start] if self.live[start.id] else []
            while stack:
                node = stack[-1]
                missing = [] if state[node.id] == _DONE else self._missing(node, state)
                if missing:
                    # All that was missing is above it, unless a path from there leads back here.
                    if state[node.id] == _OPEN:
                        raise CycleError(f"{node} of {self.view.name} would wait for itself")
                    state[node.id] = _OPEN
                    stack += missing
                    continue
                stack.pop()
                if state[node.id] != _DONE:
                    state[node.id] = _DONE
                    order.append(node)
        return order

    def _missing(self, node: Node, state: bytearray) -> list[Node]:
        """What a node reads or waits for and isn't dealt with yet."""
        missing = [v.node for v in self.inputs[node.id] if state[v.node.id] != _DONE]
        missing += [other for other in self.controls[node.id] if state[other.id] != _DONE]
        return missing
