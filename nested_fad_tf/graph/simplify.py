"""Drops what unknown dimensions alone made necessary, on a view, before anything is planned."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.graph.symbolic import SymbolicShapes
from nested_fad_tf.graph.view import GraphView


@dataclasses.dataclass(frozen=True)
class Redirect:
    """An input that may read something else, with the same results.

    Attributes:
        node: The reader.
        index: Which of its inputs.
        value: What it reads now.
    """

    node: Node
    index: int
    value: Value


def simplify(view: GraphView) -> Sequence[Redirect]:
    """Lets readers of sums over nothing, and of shapes, read what is there anyway.

    A sum that is reshaped to the shape of what is summed has as many elements as that: every axis
    it goes over has the length one, and what comes out is what went in. And a shape is that of any
    tensor of the same one; of the first, the others needn't be kept, or computed, for it.

    Args:
        view: The view; its nodes are changed.

    Returns:
        What was changed, for the graph itself.
    """
    if not any(n.op_type in ("Shape", "ShapeN") and not _static(n) for n in view.nodes):
        return ()
    shapes = SymbolicShapes(view)
    found = [*_empty_sums(view, shapes), *_shapes(view, shapes)]
    for redirect in found:
        view.redirect(redirect.node, redirect.index, redirect.value)
    view.share_storage()
    return found


def _static(node: Node) -> bool:
    return all(value.static for value in node.inputs)


def _empty_sums(view: GraphView, shapes: SymbolicShapes) -> list[Redirect]:
    instead: dict[int, Value] = {}
    found = []
    for node in view.nodes:
        for index, value in enumerate(node.inputs):
            if value.id in instead:
                found.append(Redirect(node, index, instead[value.id]))
        if node.op_type != "Reshape" or node.inputs[0].node.op_type != "Sum":
            continue
        (out,), summed = node.outputs, node.inputs[0].node.inputs[0]
        if shapes.of(out) is not None and shapes.of(out) == shapes.of(summed):
            instead[out.id] = instead.get(summed.id, summed)
    return found


def _shapes(view: GraphView, shapes: SymbolicShapes) -> list[Redirect]:
    first: dict[object, Value] = {}

    def key(value: Value, node: Node) -> object:
        """What tensors have in common whose shapes an op may as well read."""
        return shapes.of(value), value.dtype, node.device

    found = []
    for node in view.nodes:
        if not view.live[node.id]:
            continue
        if node.op_type in ("Shape", "ShapeN", "Size"):
            for index, value in enumerate(node.inputs):
                like = first.get(key(value, node), value)
                if not value.static and value.shape is not None and like is not value:
                    found.append(Redirect(node, index, like))
        for value in node.outputs:
            if value.dtype not in (tf.resource, tf.variant):
                first.setdefault(key(value, node), value)
    return found
