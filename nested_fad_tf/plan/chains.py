"""Chains: the maximal regions of element-wise forward ops that a plan makes one decision about."""

from __future__ import annotations

import dataclasses

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.ops import elementwise
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.components import Components


@dataclasses.dataclass(frozen=True)
class Chain:
    """A connected region of element-wise ops of the forward pass.

    Attributes:
        nodes: Its ops, in order.
        inputs: Buffers it reads from outside; free ones left out.
        kept_today: Buffers of its own that plain TensorFlow keeps for the backward pass.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    kept_today: tuple[Value, ...]

    @property
    def name(self) -> str:
        """The scope that all its ops share, or the first op's name."""
        first, *rest = (node.name.split("/") for node in self.nodes)
        for depth, part in enumerate(first):
            if any(len(other) <= depth or other[depth] != part for other in rest):
                return "/".join(first[:depth]) or self.nodes[0].name
        return self.nodes[0].name


def find_chains(candidates: Candidates) -> list[Chain]:
    """Finds the chains that have something to decide about.

    Args:
        candidates: The buffers of the forward pass.

    Returns:
        The chains that plain TensorFlow keeps something of, in order of execution.
    """
    view, roles = candidates.view, candidates.roles
    components = Components()
    order = []
    for node in view.nodes:
        if (
            roles.cotangent[node.id]
            or roles.gradient_scope[node.id]
            or not _member(candidates, node)
        ):
            continue
        components.add(node.id)
        order.append(node.id)
        for value in node.inputs:
            producer = value.storage.node.id
            if producer in components and not candidates.is_free(value):
                components.join(producer, node.id)
    groups = components.groups(order)
    chains = [_chain(candidates, [view.nodes[i] for i in group]) for group in groups]
    return sorted((c for c in chains if c.kept_today), key=lambda c: c.nodes[0].id)


def _member(candidates: Candidates, node: Node) -> bool:
    big = any(v.storage is v and not candidates.free[v.id] for v in node.outputs)
    return big and node.op_type in elementwise.TABLE and node.id not in candidates.bans


def _chain(candidates: Candidates, nodes: list[Node]) -> Chain:
    own = {node.id for node in nodes}
    read = {v.storage.id: v.storage for node in nodes for v in node.inputs}
    inputs = tuple(r for r in read.values() if r.node.id not in own and not candidates.free[r.id])
    kept = tuple(
        v for node in nodes for v in node.outputs if v.storage is v and v.id in candidates.needed
    )
    return Chain(tuple(nodes), inputs, kept)
