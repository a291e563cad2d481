"""Keeps in the backward pass what TensorFlow's graph optimizer would compute in the forward pass.

A gradient is often the product of a cotangent and a tensor of the forward pass, times something
smaller, as that of attention's scores is: `(cotangent * softmax) * scale`. TensorFlow's optimizer
multiplies what is small first (`MinimizeBroadcasts` in grappler's arithmetic optimizer,
`ConstantPushDown` in its constant folding): `cotangent * (softmax * scale)`, if the tensor of the
forward pass happens to be the operand that it takes. Nothing then keeps that from running as soon
as the softmax is there, and every layer holds a second tensor of its size until its gradient is
due. A control dependency doesn't help, since one on what is read anyway is removed first. But
neither optimization looks through an `EnsureShape`, whose kernel hands its operand's buffer on.
Seen on TensorFlow 2.21.
"""

from __future__ import annotations

from typing import Any

from nested_fad_tf.emit import primitives
from nested_fad_tf.emit.attributes import attribute
from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.graph.roles import Role, Roles
from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.plan.rewrite import Rewrite

# For the optimizer, division by a constant is a multiplication.
_PRODUCTS = frozenset({"Mul", "Div", "RealDiv"})


def hold_back(graph: Any, view: GraphView, roles: Roles, rewrite: Rewrite) -> None:
    """Keeps products of cotangents and tensors of the forward pass apart from smaller factors.

    Args:
        graph: The `FuncGraph` that the view was read from; it has been rewritten.
        view: The graph as it was traced.
        roles: Its roles.
        rewrite: What was done to it. In its groups nothing is to be kept apart.
    """
    for node in view.nodes:
        alone = view.live[node.id] and node.id not in rewrite.group_of
        if alone and _is_product(node, roles):
            index = _product_in(view, roles, node)
            if index is not None:
                _keep_apart(graph, node, index)


def _product_in(view: GraphView, roles: Roles, node: Node) -> int | None:
    """Which operand of a product is one that the other operand could be moved into."""
    late = [i for i, value in enumerate(node.inputs) if roles.of(value.node) is Role.COTANGENT]
    if len(late) != 1:
        return None
    (index,) = late
    product, factor = node.inputs[index], node.inputs[1 - index]
    moves = factor.shape != product.shape and _reads_forward(view, roles, product)
    return index if moves else None


def _is_product(node: Node, roles: Roles) -> bool:
    return node.op_type in _PRODUCTS and roles.of(node) is Role.COTANGENT


def _reads_forward(view: GraphView, roles: Roles, value: Value) -> bool:
    """Whether a factor of a value could be moved down to a tensor of the forward pass as large."""
    pending = [value]
    while pending:
        node = pending.pop().node
        if _is_product(node, roles) and len(view.live_readers(node.outputs[0])) == 1:
            for operand in node.inputs:
                if roles.of(operand.node) is Role.COTANGENT:
                    pending.append(operand)
                elif operand.shape == value.shape:
                    return True
    return False


def _keep_apart(graph: Any, node: Node, index: int) -> None:
    op = node.op
    assert op is not None
    product = op.inputs[index]
    attrs = {"T": attribute(product.dtype), "shape": attribute(product.shape)}
    apart = primitives.create(
        graph,
        "EnsureShape",
        [product],
        [product.dtype],
        attrs,
        name=f"nested_fad/{node.name}/apart",
        device=op.device,
    )
    primitives.redirect(op, index, apart.outputs[0])
