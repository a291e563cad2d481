"""Gives cones gradients of their own, computed from chosen residuals.

The result of a cone goes through an `IdentityN` whose registered gradient multiplies the cotangent
by the cone's derivatives, as `tf.custom_gradient` would have it. Two things differ from there. The
inputs of the cone pass as integers, bit by bit, because TensorFlow makes zeros for every floating
output of an op that has no cotangent, and would keep each input for its shape. And residuals are
inputs of that op too, so that they are found when the graph was copied, and are computed, and what
they are computed from freed, before anyone reads the result.

Residuals are computed by ordinary ops, so that higher derivatives go through them.

Uses private TensorFlow API (checked on 2.21): `Graph._create_op_internal`,
`Operation._update_input`, the gradient registry. SavedModels keep such gradients
(`SaveOptions(experimental_custom_gradients=True)`): while saving, the gradient is traced without
an op.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2
from tensorflow.python.framework import ops

from nested_fad_tf.emit import expression
from nested_fad_tf.graph.view import GraphView, Value
from nested_fad_tf.ops.derive import absorbs_zero
from nested_fad_tf.ops.expr import Const, Expr, is_const, masks
from nested_fad_tf.plan.outside import Residual

_PASS = "NestedFadPassThrough"
_BITS = {tf.float16: tf.int16, tf.bfloat16: tf.int16, tf.float32: tf.int32, tf.float64: tf.int64}


@ops.RegisterGradient(_PASS)
def _pass_through(op: Any, cotangent: tf.Tensor) -> tf.Tensor:
    """What arrives for the bits of a tensor is the cotangent of the tensor."""
    return cotangent


def apply(graph: Any, view: GraphView, residuals: Sequence[Residual]) -> None:
    """Rewrites a graph in place.

    Args:
        graph: The `FuncGraph` that the plan was made for.
        view: The view of it.
        residuals: What to do.
    """
    for residual in residuals:
        name = residual.cone.output.node.name
        with (
            graph.as_default(),
            tf.control_dependencies(None),
            tf.name_scope(""),
            tf.device(residual.cone.output.node.device or None),
            tf.name_scope(f"nested_fad/{name}/"),
        ):
            result = _emit(graph, residual)
        for reader, index in view.consumers[residual.cone.output.id]:
            assert reader.op is not None
            reader.op._update_input(index, result)


def _emit(graph: Any, residual: Residual) -> tf.Tensor:
    cone = residual.cone
    memo: dict[Any, tf.Tensor] = {(e, None): _tensor(v) for e, v in _computed(residual).items()}
    tensors: dict[Any, tf.Tensor] = {v: _tensor(v) for v in cone.inputs}
    kept = [expression.build(e, tensors, memo, cone.output.dtype) for e in residual.kept]
    result = _tensor(cone.output)
    carried = [_bits(graph, tensors[v]) for v in cone.active]
    shapes = [_shape_of(tensors[v], result) for v in cone.active]
    extras = [*(_bits(graph, k) for k in kept), *(s for s in shapes if s is not None)]
    gradient = _Gradient(residual, tuple(kept), tuple(shapes))
    name = f"NestedFad{ops.uid()}"

    @tf.autograph.experimental.do_not_convert
    def registered(op: Any, *cotangents: tf.Tensor) -> list[tf.Tensor | None]:
        return gradient(op, *cotangents)

    ops.RegisterGradient(name)(registered)
    inputs = [result, *carried, *extras]
    types = attr_value_pb2.AttrValue.ListValue(type=[t.dtype.as_datatype_enum for t in inputs])
    op = graph._create_op_internal(
        "IdentityN",
        inputs,
        [t.dtype for t in inputs],
        name="result",
        attrs={
            "T": attr_value_pb2.AttrValue(list=types),
            "_gradient_op_type": attr_value_pb2.AttrValue(s=name.encode()),
        },
    )
    op.outputs[0].set_shape(result.shape)
    return op.outputs[0]


def _computed(residual: Residual) -> Mapping[Expr, Value]:
    """Values inside the cone, by expression: what is kept of them needn't be made again."""
    cone = residual.cone
    return {cone.exprs[n.outputs[0].id]: n.outputs[0] for n in cone.nodes}


def _tensor(value: Value) -> tf.Tensor:
    assert value.node.op is not None
    return value.node.op.outputs[value.index]


def _bits(graph: Any, tensor: tf.Tensor) -> tf.Tensor:
    """A floating tensor's bits, for which nobody makes zeros; others as they are."""
    if not tensor.dtype.is_floating:
        return tensor
    with graph.gradient_override_map({"Bitcast": _PASS}):
        return tf.raw_ops.Bitcast(input=tensor, type=_BITS[tensor.dtype])


def _shape_of(source: tf.Tensor, result: tf.Tensor) -> tf.Tensor | None:
    """The shape that a cotangent has to be summed to; `None` if it is the result's for sure."""
    if source.shape.is_fully_defined():
        return (
            None if source.shape == result.shape else tf.constant(source.shape.as_list(), tf.int32)
        )
    return tf.raw_ops.Shape(input=source)


def _unwrapped(carried: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """The tensor whose bits were carried."""
    return carried.op.inputs[0] if dtype.is_floating else carried


def _times(
    cotangent: tf.Tensor, derived: Expr, factor: tf.Tensor | None, absorbing: bool
) -> tf.Tensor | None:
    """The product of a cotangent and a derivative, where one or the other may be infinite."""
    if isinstance(derived, Const):
        if is_const(derived, 0):
            return None
        return cotangent if is_const(derived, 1) else cotangent * derived.number
    assert factor is not None
    if masks(derived):
        return tf.math.multiply_no_nan(cotangent, factor)
    if absorbing:
        return tf.math.multiply_no_nan(factor, cotangent)
    return cotangent * factor


def _sum_to(product: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """Sums over what was broadcast."""
    sizes = tf.raw_ops.Shape(input=product)
    axes, _ = tf.raw_ops.BroadcastGradientArgs(s0=shape, s1=sizes)
    return tf.reshape(tf.reduce_sum(product, axes), shape)


@dataclasses.dataclass(frozen=True)
class _Gradient:
    """The gradient of one cone.

    Attributes:
        residual: What it is computed from.
        kept: The kept tensors, in the order of `residual.kept`.
        shapes: The shapes of the active inputs, where they aren't the result's.
    """

    residual: Residual
    kept: tuple[tf.Tensor, ...]
    shapes: tuple[tf.Tensor | None, ...]

    def __call__(self, op: Any, *cotangents: tf.Tensor) -> list[tf.Tensor | None]:
        """Computes the cotangents of the op's inputs.

        Args:
            op: The op, perhaps in a copy of the graph; `None` while a SavedModel is written.
            *cotangents: Of its outputs; only the first has one.

        Returns:
            The cotangents: for the result's input `None`, for the bits of active inputs theirs, for
            residuals `None`.
        """
        active = len(self.residual.cone.active)
        kept, shapes = self._found(op, active)
        cotangent = tf.convert_to_tensor(cotangents[0])
        gradients: list[tf.Tensor | None] = [None]
        with tf.control_dependencies([cotangent]):
            factors = self._factors(kept, cotangent.dtype)
        for derived, factor, shape in zip(self.residual.derivatives, factors, shapes, strict=True):
            product = _times(cotangent, derived, factor, absorbs_zero(self.residual.cone.expr))
            summed = product is None or shape is None
            gradients.append(product if summed else _sum_to(product, shape))
        return gradients + [None] * (len(cotangents) - len(gradients))

    def _found(self, op: Any, active: int) -> tuple[list[tf.Tensor], list[tf.Tensor | None]]:
        """The residuals and shapes as that op reads them."""
        if op is None:
            return list(self.kept), list(self.shapes)
        extras = iter(op.inputs[1 + active :])
        kept = [_unwrapped(next(extras), k.dtype) for k in self.kept]
        return kept, [None if s is None else next(extras) for s in self.shapes]

    def _factors(self, kept: list[tf.Tensor], dtype: tf.DType) -> list[tf.Tensor | None]:
        memo: dict[Any, tf.Tensor] = {}
        for expr, tensor in zip(self.residual.kept, kept, strict=True):
            memo[expr, None] = memo[expr, tensor.dtype] = tensor
        # What isn't kept has a dtype only: it must not be read.
        leaves: Any = {v: tf.TensorSpec(v.shape, v.dtype) for v in self.residual.cone.inputs}
        return [
            None if isinstance(derived, Const) else expression.build(derived, leaves, memo, dtype)
            for derived in self.residual.derivatives
        ]
