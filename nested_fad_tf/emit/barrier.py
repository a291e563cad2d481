"""An optimization barrier that a compiler can't take away.

XLA has an op for it, but removes it long before its last search for common subexpressions: on CPUs
what was recomputed is merged with its original after all. So values are tied to the cotangent by
arithmetic instead: from one element g of it comes a zero, the lowest bit of g * (g + 1), that is
or-ed into their bits. They stay what they were, to the last bit, whatever g is; nothing short of
knowing that one of two neighbours is even would tell the compiler so. The three scalar ops and the
one on each element end up inside fused loops that read the values anyway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from nested_fad_tf.emit import primitives
from nested_fad_tf.emit.attributes import attribute

_GRADIENT = "nested_fad_tied"

# Integers of the same width, by dtype; what isn't here passes as it is.
_BITS: Mapping[tf.DType, tf.DType] = {
    tf.bfloat16: tf.uint16,
    tf.float16: tf.uint16,
    tf.float32: tf.uint32,
    tf.float64: tf.uint64,
    tf.int8: tf.int8,
    tf.int16: tf.int16,
    tf.int32: tf.int32,
    tf.int64: tf.int64,
    tf.uint8: tf.uint8,
    tf.uint16: tf.uint16,
    tf.uint32: tf.uint32,
    tf.uint64: tf.uint64,
}


def tie(graph: Any, values: Sequence[tf.Tensor], cotangent: tf.Tensor) -> list[tf.Tensor]:
    """Makes values available only when a cotangent is.

    Args:
        graph: The graph they are in.
        values: Tensors of any dtype; booleans and numbers are tied, others pass as they are.
        cotangent: A floating tensor of a static shape.

    Returns:
        Tensors with the same elements as `values`.
    """
    if not cotangent.shape.num_elements() or cotangent.dtype not in _BITS:
        return list(values)
    ops = _Ops(graph)
    zero = ops.hidden_zero(cotangent)
    return ops.differentiable([ops.with_zero(value, zero) for value in values], values)


@tf.RegisterGradient(_GRADIENT)
def _gradient(op: tf.Operation, *cotangents: tf.Tensor | None) -> list[tf.Tensor | None]:
    """Of `differentiable`: what comes for a tied value goes to the value."""
    count = len(op.inputs) // 2
    return [*[None] * count, *cotangents[:count]]


class _Ops:
    def __init__(self, graph: Any) -> None:
        self._graph = graph

    def hidden_zero(self, cotangent: tf.Tensor) -> tf.Tensor:
        """A uint32 scalar that is zero and depends on one element of a cotangent."""
        one = self._constant(np.ones(1, np.int32))
        flat = self._add("Reshape", [cotangent, self._constant(np.array([-1], np.int32))])
        first = self._add("Slice", [flat, self._constant(np.zeros(1, np.int32)), one])
        element = self._add("Reshape", [first, self._constant(np.zeros(0, np.int32))])
        bits = self._cast(self._bitcast(element, _BITS[cotangent.dtype]), tf.uint32)
        unit = self._constant(np.array(1, np.uint32))
        even = self._add("Mul", [bits, self._add("AddV2", [bits, unit])])
        return self._add("BitwiseAnd", [even, unit])

    def with_zero(self, value: tf.Tensor, zero: tf.Tensor) -> tf.Tensor:
        """A value with zero or-ed into each of its elements."""
        if value.dtype == tf.bool:
            return self._add("LogicalOr", [value, self._cast(zero, tf.bool)])
        if value.dtype not in _BITS:
            return value
        bits = self._bitcast(value, _BITS[value.dtype])
        tied = self._add("BitwiseOr", [bits, self._cast(zero, bits.dtype)])
        return self._bitcast(tied, value.dtype)

    def differentiable(
        self, tied: Sequence[tf.Tensor], values: Sequence[tf.Tensor]
    ) -> list[tf.Tensor]:
        """The tied values with the derivative of the identity, which bit operations don't have."""
        tensors = [*tied, *values]
        dtypes = [t.dtype for t in tensors]
        attrs = {"T": attribute(dtypes), "_gradient_op_type": attribute(_GRADIENT)}
        op = self._create("IdentityN", tensors, dtypes, attrs)
        return list(op.outputs[: len(tied)])

    def _cast(self, value: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        if value.dtype == dtype:
            return value
        return self._add("Cast", [value], dtype, SrcT=value.dtype, DstT=dtype, Truncate=False)

    def _bitcast(self, value: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        if value.dtype == dtype:
            return value
        return self._add("Bitcast", [value], dtype, T=value.dtype, type=dtype)

    def _constant(self, array: np.ndarray) -> tf.Tensor:
        return self._add("Const", [], tf.as_dtype(array.dtype), value=array)

    def _add(
        self,
        op_type: str,
        inputs: Sequence[tf.Tensor],
        dtype: tf.DType | None = None,
        **attrs: Any,
    ) -> tf.Tensor:
        """Adds an op; without a dtype the result has that of the first input."""
        dtype = dtype or inputs[0].dtype
        if op_type == "Const":
            attrs["dtype"] = dtype
        elif not attrs and op_type != "LogicalOr":
            attrs["T"] = dtype
        made = {name: attribute(value) for name, value in attrs.items()}
        return self._create(op_type, inputs, [dtype], made).outputs[0]

    def _create(
        self,
        op_type: str,
        inputs: Sequence[tf.Tensor],
        dtypes: Sequence[tf.DType],
        attrs: Mapping[str, Any],
    ) -> tf.Operation:
        return primitives.create(
            self._graph, op_type, inputs, dtypes, attrs, name="tied", device=""
        )
