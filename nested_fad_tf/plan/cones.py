"""Cones: chains with one result, in graphs that are differentiated from outside.

A cone is an element-wise op with all element-wise ops that serve it alone. It has one output and
reads some values from outside, so that one derivative for each of those is all its backward pass
needs, and replacing its gradient can't make a cycle.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import tensorflow as tf

from nested_fad_tf.graph.nodes import OWN_GRADIENT, Node, Value
from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.ops import elementwise
from nested_fad_tf.ops.expr import Apply, Const, Expr, Leaf

# Not float16: a derivative, before it is multiplied with the cotangent, may overflow there.
_FLOATS = frozenset({tf.bfloat16, tf.float32, tf.float64})
# What gradients go through. A variant may be a list of tensors, as loops and TensorArrays keep.
_TRAINABLE = _FLOATS | {tf.float16, tf.complex64, tf.complex128, tf.variant}
# Type attributes follow from the inputs; a Cast would change the dtype inside a cone.
_BOUNDARIES = frozenset({"Cast", "Bitcast"})


@dataclasses.dataclass(frozen=True)
class Cone:
    """A chain of element-wise ops with one result.

    Attributes:
        output: Its result.
        nodes: Its ops, in order; the last one gives the result.
        inputs: What it reads from outside, constants left out.
        active: Those of them that a gradient goes to.
        expr: The result as an expression; leaves are the inputs.
        exprs: The expression of every value inside, by value id.
    """

    output: Value
    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    active: tuple[Value, ...]
    expr: Expr
    exprs: Mapping[int, Expr]


def find_active(view: GraphView) -> list[bool]:
    """Finds the nodes that a gradient may go through.

    Args:
        view: A graph without a backward pass.

    Returns:
        Per node id, whether it depends on an argument or a variable through tensors that have
        gradients.
    """
    active = [False] * len(view.nodes)
    passed_by = _passed_by(view)
    for node in view.nodes:
        if node.op_type in ("StopGradient", "PreventGradient") or not view.live[node.id]:
            continue
        if passed_by[node.id]:
            continue
        source = not node.inputs and node.op_type.startswith("Placeholder")
        reads_variable = any(v.dtype == tf.resource for v in node.inputs)
        reached = any(active[v.node.id] and v.dtype in _TRAINABLE for v in node.inputs)
        active[node.id] = source or reads_variable or reached
    return active


def _passed_by(view: GraphView) -> list[bool]:
    """Per node id, whether it lies inside a cone that was rewritten before.

    No cotangent gets there: that of the cone's result goes to the cone's inputs at once.
    """
    passed = [False] * len(view.nodes)
    returned = {v.node.id for v in view.outputs}
    for node in reversed(view.nodes):
        readers = [r for v in node.outputs for r in view.consumers[v.id] if view.live[r[0].id]]
        passed[node.id] = (
            bool(readers)
            and node.id not in returned
            and all(passed[r.id] or _reads_for_gradient(r, index) for r, index in readers)
        )
    return passed


def _reads_for_gradient(node: Node, index: int) -> bool:
    """Whether an input is the result of a cone rewritten before, or is kept for its gradient."""
    reads = node.attr(OWN_GRADIENT)
    return reads is not None and (index == 0 or index in reads)


def find_cones(view: GraphView, active: list[bool], min_bytes: int) -> list[Cone]:
    """Finds the cones of a graph.

    Args:
        view: A graph without a backward pass.
        active: What `find_active` found.
        min_bytes: Results below this size are left alone.

    Returns:
        The cones, in order of execution.
    """
    root_of: dict[int, Node] = {}  # node id -> the node that gives its cone's result
    members: dict[int, list[Node]] = {}
    outputs = {v.id for v in view.outputs}
    waited_for = {c.id for node in view.nodes for c in node.controls}
    waited_for.update(node.id for node in view.control_outputs)
    for node in reversed(view.nodes):
        if not view.live[node.id] or node.id in waited_for or not _may_belong(node):
            continue
        (value,) = node.outputs
        readers = view.live_readers(value)
        roots = {root_of[r.id].id if r.id in root_of else -1 for r in readers}
        device = all(r.device == node.device for r in readers)
        if len(roots) == 1 and -1 not in roots and device and value.id not in outputs:
            root_of[node.id] = root_of[readers[0].id]
        elif value.id not in outputs and _may_be_root(node, readers, active, min_bytes):
            root_of[node.id] = node
        else:
            continue
        members.setdefault(root_of[node.id].id, []).append(node)
    cones = (_cone(view, active, nodes[::-1]) for _, nodes in sorted(members.items()))
    return [cone for cone in cones if cone is not None]


def _may_belong(node: Node) -> bool:
    entry = elementwise.TABLE.get(node.op_type)
    if entry is None or node.stateful or node.controls or len(node.outputs) != 1:
        return False
    if node.op_type in _BOUNDARIES or has_own_gradient(node):
        return False
    if node.op_type == "BiasAdd" and node.attr("data_format") != b"NHWC":
        return False
    return entry.discrete or (entry.partials is not None and node.outputs[0].dtype in _FLOATS)


def has_own_gradient(node: Node) -> bool:
    """Whether an op has a gradient that isn't its type's.

    Registered for this very op, as tf.custom_gradient does, or that of a cone rewritten before.
    """
    return node.attr("_gradient_op_type") is not None or node.attr(OWN_GRADIENT) is not None


def _may_be_root(node: Node, readers: list[Node], active: list[bool], min_bytes: int) -> bool:
    (value,) = node.outputs
    # A custom gradient has its own way past the ops that it is the gradient of.
    known = bool(readers) and not any(
        r.op_type == "IdentityN" or r.attr(OWN_GRADIENT) is not None for r in readers
    )
    big = value.dtype in _FLOATS and value.nbytes >= min_bytes
    return active[node.id] and known and big


def _cone(view: GraphView, active: list[bool], nodes: list[Node]) -> Cone | None:
    exprs: dict[int, Expr] = {}
    inputs: dict[int, Value] = {}
    for node in nodes:
        for value in node.inputs:
            if value.id not in exprs:
                exprs[value.id] = _leaf(view, value)
                if isinstance(exprs[value.id], Leaf):
                    inputs[value.id] = value
        exprs[node.outputs[0].id] = _apply(node, tuple(exprs[v.id] for v in node.inputs))
    output = nodes[-1].outputs[0]
    moving = tuple(v for v in inputs.values() if active[v.node.id] and v.dtype == output.dtype)
    others = [v for v in inputs.values() if active[v.node.id] and v.dtype in _FLOATS]
    if not moving or len(others) > len(moving):  # a gradient would have to change its dtype
        return None
    inside = {node.outputs[0].id: exprs[node.outputs[0].id] for node in nodes}
    return Cone(output, tuple(nodes), tuple(inputs.values()), moving, inside[output.id], inside)


def _leaf(view: GraphView, value: Value) -> Expr:
    """A number for a constant scalar, so that formulas are simplified; else a leaf."""
    if value.shape == () and value.dtype in _FLOATS:
        array = view.constant(value)
        if array is not None:
            return Const(float(array))
    return Leaf(value)


def _apply(node: Node, args: tuple[Expr, ...]) -> Expr:
    if node.op_type == "BiasAdd":  # of channels that come last: broadcasting does the same
        return Apply("AddV2", args)
    return Apply(node.op_type, args, _attributes(node))


def _attributes(node: Node) -> tuple[tuple[str, object], ...]:
    """What can't be told from the inputs."""
    assert node.op is not None
    definition = node.op.op_def
    counts = {arg.number_attr for arg in definition.input_arg}
    return tuple(
        sorted(
            (attr.name, node.attr(attr.name))
            for attr in definition.attr
            if attr.type != "type" and attr.name not in counts
        )
    )
