"""An op that hands on a result, and has a gradient of its own that reads chosen tensors.

As `tf.custom_gradient` makes it, with two differences. The inputs that a gradient goes to pass as
integers, bit by bit, because TensorFlow makes zeros for every floating output of an op that has no
cotangent, and would keep each input for its shape. And what the gradient reads is an input of that
op, too, so that it is found when the graph was copied, and is computed, and what it is computed
from freed, before anyone reads the result.

SavedModels keep such gradients (`SaveOptions(experimental_custom_gradients=True)`): while saving,
the gradient is traced without an op.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from nested_fad_tf.emit import primitives
from nested_fad_tf.emit.attributes import attribute
from nested_fad_tf.graph.view import static_shape

_BITS = {tf.bfloat16: tf.int16, tf.float32: tf.int32, tf.float64: tf.int64}

# From the cotangent of the result, what is carried, and shapes, to cotangents of what is carried.
Gradient = Callable[
    [tf.Tensor, Sequence[tf.Tensor], Sequence[tf.Tensor]], Sequence[tf.Tensor | None]
]


def carry(
    result: tf.Tensor,
    carried: Sequence[tf.Tensor],
    shapes: Sequence[tf.Tensor],
    gradient: Gradient,
) -> tf.Tensor:
    """Gives a tensor another gradient than that of the op which computes it.

    Args:
        result: The tensor.
        carried: What cotangents go to, and behind it what the gradient reads beside.
        shapes: Small integer tensors that the gradient reads.
        gradient: Computes the cotangents; where it gives fewer, the rest has none. It must not read
            those of `carried` that aren't to be kept.

    Returns:
        The result with that gradient.
    """
    graph: Any = tf.compat.v1.get_default_graph()
    inputs = [result, *(_bits(graph, t) for t in carried), *shapes]
    name = _unique("NestedFad")

    @tf.autograph.experimental.do_not_convert
    def registered(op: Any, *cotangents: tf.Tensor) -> list[tf.Tensor | None]:
        found = _as_read(op, carried, shapes)
        given = gradient(tf.convert_to_tensor(cotangents[0]), *found)
        return [None, *given, *[None] * (len(inputs) - 1 - len(given))]

    tf.RegisterGradient(name)(registered)
    dtypes = [t.dtype for t in inputs]
    attrs = {"T": attribute(dtypes), "_gradient_op_type": attribute(name)}
    op = primitives.create(graph, "IdentityN", inputs, dtypes, attrs, name="result")
    op.outputs[0].set_shape(result.shape)
    return op.outputs[0]


def _as_read(
    op: Any, carried: Sequence[tf.Tensor], shapes: Sequence[tf.Tensor]
) -> tuple[Sequence[tf.Tensor], Sequence[tf.Tensor]]:
    """What is carried as that op reads it, perhaps in a copy of the graph."""
    if op is None:
        return carried, shapes
    first = 1 + len(carried)
    read = zip(op.inputs[1:first], carried, strict=True)
    return [_unwrapped(now, then.dtype) for now, then in read], list(op.inputs[first:])


def _unique(name: str) -> str:
    """A name for a gradient, unlike all others: a graph from another process may bring some."""
    return f"{name}{uuid.uuid4().hex}"


@functools.cache
def _pass_through(shape: tuple[int | None, ...] | None, dtype: tf.DType) -> str:
    """Registers the gradient of taking a tensor's bits: what arrives is the tensor's cotangent.

    A SavedModel stores it once a name, traced for one shape.
    """
    name = _unique("NestedFadPassThrough")

    @tf.autograph.experimental.do_not_convert
    def passed(op: Any, cotangent: tf.Tensor) -> tf.Tensor:
        return cotangent

    tf.RegisterGradient(name)(passed)
    return name


def _bits(graph: Any, tensor: tf.Tensor) -> tf.Tensor:
    """A floating tensor's bits, for which nobody makes zeros; others as they are."""
    if not tensor.dtype.is_floating:
        return tensor
    name = _pass_through(static_shape(tensor), tensor.dtype)
    with graph.gradient_override_map({"Bitcast": name}):
        return tf.raw_ops.Bitcast(input=tensor, type=_BITS[tensor.dtype])


def _unwrapped(carried: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """The tensor whose bits were carried."""
    return carried.op.inputs[0] if dtype.is_floating else carried
