"""Shapes with unknown dimensions that are told apart, and what follows from equal ones.

With a batch of unknown size TensorFlow can't see that two operands are equally large. Each gradient
of a product then sums over the axes along which an operand was broadcast, computed from shapes at
run time, although there are none. Its graph optimizer finds that out and drops the sums; here it
has to be found out before the plan is made, because a sum ends every chain, and the shape that it
asks for keeps a tensor.

An unknown dimension gets a number of its own, below zero, wherever no rule says that it is one that
is known already. Two dimensions with the same number are equal whenever the function runs; of
others nothing is known.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.ops import elementwise

# A dimension: its size, or the number (below zero) of an unknown one; None where a rule is silent.
_Dim = int | None
_Dims = tuple[_Dim, ...]
_Rule = Callable[["SymbolicShapes", Node], Sequence[_Dims | None]]


class SymbolicShapes:
    """The shapes of a graph's values.

    Attributes:
        view: The graph.
    """

    def __init__(self, view: GraphView) -> None:
        """Goes through the graph once, in order of execution."""
        self.view = view
        self._dims: dict[int, tuple[int, ...] | None] = {}
        self._unknown = 0
        for node in view.nodes:
            self._find(node)

    def of(self, value: Value) -> tuple[int, ...] | None:
        """The shape of a value.

        Args:
            value: A value of the view.

        Returns:
            Sizes, and numbers below zero of unknown dimensions; `None` for an unknown rank.
        """
        return self._dims[value.id]

    def _find(self, node: Node) -> None:
        unknown = [v for v in node.outputs if v.shape is not None and None in v.shape]
        found: Sequence[_Dims | None] = ()
        if unknown:
            rule = RULES.get(node.op_type)
            if rule is None and node.op_type in elementwise.TABLE:
                rule = _broadcast
            found = rule(self, node) if rule is not None else ()
        for value in node.outputs:
            told = found[value.index] if value.index < len(found) else None
            self._dims[value.id] = self._complete(value, told)

    def _complete(self, value: Value, told: _Dims | None) -> tuple[int, ...] | None:
        """A static shape, its unknown dimensions as a rule tells them or numbered anew."""
        if value.shape is None:
            return None
        if told is None or len(told) != len(value.shape):
            told = (None,) * len(value.shape)
        dims = []
        for size, dim in zip(value.shape, told, strict=True):
            if size is None and dim is None:
                self._unknown -= 1
            dims.append(size if size is not None else self._unknown if dim is None else dim)
        return tuple(dims)

    def contents(self, value: Value) -> _Dims | None:
        """What a vector, or a scalar, of sizes holds.

        Args:
            value: A value of the view.

        Returns:
            Its entries; `None` in place of those that aren't known, or if none is.
        """
        node = value.node
        constant = self.view.constant(value)
        if constant is not None:
            flat = constant.reshape(-1).tolist() if constant.dtype.kind in "iu" else []
            return tuple(n if n >= 0 else None for n in flat) or None
        if node.op_type in ("Shape", "ShapeN"):
            return self.of(node.inputs[value.index])
        if node.op_type in ("Identity", "Cast"):
            return self.contents(node.inputs[0])
        if node.op_type == "Pack":
            parts = [self.contents(v) for v in node.inputs]
            return tuple(p[0] if p is not None and len(p) == 1 else None for p in parts)
        if node.op_type == "ConcatV2":
            joined = [self.contents(v) for v in node.inputs[:-1]]
            return None if None in joined else tuple(d for p in joined if p for d in p)
        if node.op_type == "StridedSlice":
            return self._sliced(node)
        return None

    def _sliced(self, node: Node) -> _Dims | None:
        """A part of a vector of sizes, with constant bounds."""
        whole = self.contents(node.inputs[0])
        bounds = [self.view.constant(v) for v in node.inputs[1:]]
        if whole is None or any(b is None or b.size != 1 for b in bounds):
            return None
        if node.attr("ellipsis_mask") or node.attr("new_axis_mask"):
            return None
        if node.attr("shrink_axis_mask") and node.attr("begin_mask"):
            return None
        begin, end, step = (int(b.item()) for b in bounds if b is not None)
        if node.attr("shrink_axis_mask"):
            return (whole[begin],) if -len(whole) <= begin < len(whole) else None
        first = None if node.attr("begin_mask") else begin
        last = None if node.attr("end_mask") else end
        return whole[first:last:step]


def _broadcast_dims(shapes: Sequence[Sequence[_Dim] | None]) -> _Dims | None:
    """The shape that operands are broadcast to."""
    if not shapes or any(s is None for s in shapes):
        return None
    known = [s for s in shapes if s is not None]
    rank = max(map(len, known))
    dims: list[_Dim] = []
    for axis in range(-rank, 0):
        met = {s[axis] for s in known if len(s) >= -axis and s[axis] != 1}
        # A size beats a number: an unknown dimension beside it is one, or the same.
        sizes = {d for d in met if d is not None and d > 1}
        dims.append(1 if not met else met.pop() if len(met) == 1 else min(sizes, default=None))
    return tuple(dims)


def _broadcast(shapes: SymbolicShapes, node: Node) -> list[_Dims | None]:
    return [_broadcast_dims([shapes.of(v) for v in node.inputs])]


def _same(shapes: SymbolicShapes, node: Node) -> list[_Dims | None]:
    return [shapes.of(node.inputs[0])]


def _pairwise(shapes: SymbolicShapes, node: Node) -> list[_Dims | None]:
    return [shapes.of(v) for v in node.inputs]


def _batch(shapes: SymbolicShapes, node: Node) -> list[_Dims | None]:
    """Only the first dimension is the input's; a layout with channels first keeps it there."""
    dims, rank = shapes.of(node.inputs[0]), node.outputs[0].shape
    return [None if dims is None or rank is None else (dims[0], *[None] * (len(rank) - 1))]


def _matmul(shapes: SymbolicShapes, node: Node) -> list[_Dims | None]:
    a, b = (shapes.of(v) for v in node.inputs)
    if a is None or b is None:
        return [None]
    return [(a[1 if node.attr("transpose_a") else 0], b[0 if node.attr("transpose_b") else 1])]


def _batch_matmul(shapes: SymbolicShapes, node: Node) -> list[_Dims | None]:
    a, b = (shapes.of(v) for v in node.inputs)
    if a is None or b is None:
        return [None]
    batch = _broadcast_dims([a[:-2], b[:-2]])
    row = a[-1 if node.attr("adj_x") else -2]
    column = b[-2 if node.attr("adj_y") else -1]
    return [None if batch is None else (*batch, row, column)]


def _cross_entropy(shapes: SymbolicShapes, node: Node) -> list[_Dims | None]:
    dims = shapes.of(node.inputs[0])
    return [None if dims is None else dims[:1], dims]


def _given_by(index: int) -> _Rule:
    """An input holds the shape of the result."""

    def rule(shapes: SymbolicShapes, node: Node) -> list[_Dims | None]:
        return [shapes.contents(node.inputs[index])]

    return rule


def _reshape(shapes: SymbolicShapes, node: Node) -> list[_Dims | None]:
    """As given; what is left to be computed (-1) is the input's unknown dimension if that fits."""
    told = shapes.contents(node.inputs[1])
    source, static = shapes.of(node.inputs[0]), node.outputs[0].shape
    if told is None and static is not None:
        told = static
    if told is None or source is None or told.count(None) != 1:
        return [told]
    known = [d for d in told if d is not None]
    left = Counter(d for d in source if d < 0) - Counter(d for d in known if d < 0)
    fits = math.prod(d for d in source if d >= 0) == math.prod(d for d in known if d >= 0)
    if not fits or len(left) != 1 or left.total() != 1:
        return [told]
    if Counter(d for d in known if d < 0) - Counter(d for d in source if d < 0):
        return [told]
    return [tuple(next(iter(left)) if d is None else d for d in told)]


def _transpose(shapes: SymbolicShapes, node: Node) -> list[_Dims | None]:
    dims, order = shapes.of(node.inputs[0]), shapes.view.constant(node.inputs[1])
    return [None if dims is None or order is None else tuple(dims[i] for i in order.tolist())]


def _expand(shapes: SymbolicShapes, node: Node) -> list[_Dims | None]:
    dims, axis = shapes.of(node.inputs[0]), shapes.view.constant(node.inputs[1])
    if dims is None or axis is None or axis.size != 1:
        return [None]
    place = int(axis.item()) % (len(dims) + 1)
    return [(*dims[:place], 1, *dims[place:])]


def _squeeze(shapes: SymbolicShapes, node: Node) -> list[_Dims | None]:
    dims, axes = shapes.of(node.inputs[0]), node.attr("squeeze_dims")
    if dims is None or not axes:
        return [None]
    dropped = {axis % len(dims) for axis in axes}
    return [tuple(d for i, d in enumerate(dims) if i not in dropped)]


def _reduce(shapes: SymbolicShapes, node: Node) -> list[_Dims | None]:
    dims, axes = shapes.of(node.inputs[0]), shapes.view.constant(node.inputs[1])
    if dims is None or axes is None:
        return [None]
    reduced = {int(axis) % len(dims) for axis in axes.reshape(-1)} if dims else set()
    if node.attr("keep_dims"):
        return [tuple(1 if i in reduced else d for i, d in enumerate(dims))]
    return [tuple(d for i, d in enumerate(dims) if i not in reduced)]


def _concat(shapes: SymbolicShapes, node: Node) -> list[_Dims | None]:
    """All but the joined axis is the first one's."""
    dims, axis = shapes.of(node.inputs[0]), shapes.view.constant(node.inputs[-1])
    if dims is None or axis is None:
        return [None]
    joined = int(axis.item()) % len(dims)
    return [tuple(None if i == joined else d for i, d in enumerate(dims))]


def _gather(shapes: SymbolicShapes, node: Node) -> list[_Dims | None]:
    table, indices = shapes.of(node.inputs[0]), shapes.of(node.inputs[1])
    axis = shapes.view.constant(node.inputs[2])
    if table is None or indices is None or axis is None or axis.item() or node.attr("batch_dims"):
        return [None]
    return [(*indices, *table[1:])]


# What an op's shapes follow from; the element-wise ops that aren't here broadcast their operands.
RULES: Final[dict[str, _Rule]] = {
    "AddN": _same,
    "AvgPool": _batch,
    "AvgPoolGrad": _given_by(0),
    "BatchMatMul": _batch_matmul,
    "BatchMatMulV2": _batch_matmul,
    "BatchMatMulV3": _batch_matmul,
    "BiasAdd": _same,
    "BroadcastTo": _given_by(1),
    "CheckNumerics": _same,
    "CheckNumericsV2": _same,
    "ConcatV2": _concat,
    "Conv2D": _batch,
    "Conv2DBackpropInput": _given_by(0),
    "Conv3D": _batch,
    "Conv3DBackpropInputV2": _given_by(0),
    "Cumsum": _same,
    "DepthwiseConv2dNative": _batch,
    "DepthwiseConv2dNativeBackpropInput": _given_by(0),
    "ExpandDims": _expand,
    "Fill": _given_by(0),
    "FusedBatchNormGradV3": _same,
    "FusedBatchNormV3": _same,
    "FusedBatchNormV3.batch_y": _same,
    "FusedBatchNormV3.y": _same,
    "GatherV2": _gather,
    "Identity": _same,
    "IdentityN": _pairwise,
    "LogSoftmax": _same,
    "MatMul": _matmul,
    "Max": _reduce,
    "MaxPool": _batch,
    "MaxPoolGrad": _same,
    "Mean": _reduce,
    "Min": _reduce,
    "OnesLike": _same,
    "PreventGradient": _same,
    "Prod": _reduce,
    "RandomStandardNormal": _given_by(0),
    "RandomUniform": _given_by(0),
    "Reshape": _reshape,
    "Snapshot": _same,
    "Softmax": _same,
    "SparseSoftmaxCrossEntropyWithLogits": _cross_entropy,
    "Squeeze": _squeeze,
    "StatelessRandomNormalV2": _given_by(0),
    "StatelessRandomUniformV2": _given_by(0),
    "StopGradient": _same,
    "Sum": _reduce,
    "Transpose": _transpose,
    "ZerosLike": _same,
}
