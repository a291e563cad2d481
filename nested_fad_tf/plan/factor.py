"""Linear factoring: a region of element-wise backward ops as a matrix of derivatives.

A maximal connected region of element-wise ops on cotangents is linear in the cotangents that enter
it: out_o = Σ_j u_j * D_oj, element by element. The D_oj are products and sums of the factors of the
single ops, expressions over forward values. They are the derivatives that nested forward-mode AD
(Guo et al., arXiv 2209.10778) computes in the forward pass, so that the backward pass is a
multiply.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import tensorflow as tf

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.ops import elementwise
from nested_fad_tf.ops.entry import linear_inputs
from nested_fad_tf.ops.expr import Const, Expr, Leaf, add, is_const, leaves, scale
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.components import Components


@dataclasses.dataclass(frozen=True)
class Region:
    """A region of the backward pass.

    Attributes:
        nodes: Its ops, in order.
        derivatives: For each of its outputs that is read outside, and each cotangent that enters
            it: the derivative, an expression whose leaves are forward values.
    """

    nodes: tuple[Node, ...]
    derivatives: Mapping[Value, Mapping[Value, Expr]]

    @property
    def dtype(self) -> tf.DType:
        """The dtype of its arithmetic."""
        return self.nodes[0].outputs[0].dtype


def find_regions(candidates: Candidates) -> list[Region]:
    """Factors the backward pass.

    Args:
        candidates: The buffers and roles of a graph.

    Returns:
        The regions, in order of execution. Ops whose zeros a product can't reproduce belong to
        none.
    """
    parts = {n.id: p for n in candidates.view.nodes if (p := _partials(candidates, n)) is not None}
    regions = []
    for nodes in _connected(candidates, parts):
        derivatives = _derivatives(candidates, nodes, parts)
        if derivatives:
            regions.append(Region(tuple(nodes), derivatives))
    return regions


def _partials(candidates: Candidates, node: Node) -> dict[int, Expr] | None:
    """For each cotangent input of a linear op its factor; `None` for any other op."""
    entry = elementwise.TABLE.get(node.op_type)
    if not candidates.roles.cotangent[node.id] or entry is None or entry.partials is None:
        return None
    if node.stateful or len(node.outputs) != 1 or node.op_type == "Cast":
        return None
    if entry.absorbs_zero:  # gives 0 for a cotangent of 0 however large the factor: no product
        return None
    out = node.outputs[0]
    linear = linear_inputs(entry, len(node.inputs))
    incoming = [i for i, v in enumerate(node.inputs) if _is_cotangent(candidates, v)]
    # Without an incoming cotangent it is the first to read a seed that is a forward value.
    if not incoming or not out.dtype.is_floating or not set(incoming) <= set(linear):
        return None
    if entry.joint and not all(
        i in incoming or _is_zero(candidates, node.inputs[i]) for i in linear
    ):
        return None
    rule = entry.partials(tuple(Leaf(v) for v in node.inputs), Leaf(out), node.attr)
    partials = {}
    for i in incoming:
        factor = rule[i]
        if factor is None or node.inputs[i].dtype != out.dtype:
            return None
        if any(_is_cotangent(candidates, v) for v in leaves(factor) if isinstance(v, Value)):
            return None
        partials[i] = factor
    return partials


def _is_cotangent(candidates: Candidates, value: Value) -> bool:
    return candidates.roles.cotangent[value.node.id]


def _is_zero(candidates: Candidates, value: Value) -> bool:
    if value.node.op_type in ("Identity", "Reshape", "BroadcastTo"):
        return _is_zero(candidates, value.node.inputs[0])
    if value.node.op_type == "ZerosLike":
        return True
    if value.node.op_type == "Fill":
        return _is_zero(candidates, value.node.inputs[1])
    array = candidates.view.constant(value)
    return array is not None and not array.any()


def _connected(candidates: Candidates, parts: Mapping[int, object]) -> list[list[Node]]:
    """Groups linear ops that hand each other big cotangents."""
    components = Components()
    for node_id in parts:
        components.add(node_id)
    nodes = candidates.view.nodes
    for node_id in parts:
        for value in nodes[node_id].inputs:
            if value.node.id in parts and not candidates.free[value.storage.id]:
                components.join(value.node.id, node_id)
    big = [i for i in sorted(parts) if not candidates.free[nodes[i].outputs[0].id]]
    return [[nodes[i] for i in group] for group in components.groups(big)]


def _derivatives(
    candidates: Candidates, nodes: list[Node], parts: Mapping[int, Mapping[int, Expr]]
) -> dict[Value, dict[Value, Expr]]:
    """Runs forward mode through a region: every value as a combination of what enters."""
    members = {node.id for node in nodes}
    returned = {v.id for v in candidates.view.outputs}
    rows: dict[int, dict[Value, Expr]] = {}
    found: dict[Value, dict[Value, Expr]] = {}
    for node in nodes:
        row: dict[Value, Expr] = {}
        for index, factor in parts[node.id].items():
            value = node.inputs[index]
            below = rows[value.id] if value.node.id in members else {value: Const(1)}
            for entering, derivative in below.items():
                term = scale(factor, derivative)
                row[entering] = add(row[entering], term) if entering in row else term
        out = node.outputs[0]
        rows[out.id] = row
        outside = [r for r in candidates.view.live_readers(out) if r.id not in members]
        if outside and out.id not in returned:
            found[out] = {u: d for u, d in row.items() if not is_const(d, 0)}
    return found
