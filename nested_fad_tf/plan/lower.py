"""From expressions over values of the graph to nodes of a rewrite."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from nested_fad_tf.graph.nodes import Value
from nested_fad_tf.graph.sizes import Shape
from nested_fad_tf.ops.expr import Apply, Const, Expr, Leaf, subexpressions
from nested_fad_tf.plan.maker import NodeMaker

_COMPARISONS = frozenset({"Greater", "GreaterEqual", "Less", "LessEqual", "Equal", "NotEqual"})
_PREDICATES = frozenset({"IsNan", "IsInf", "IsFinite"})
_LOGICAL = frozenset({"LogicalAnd", "LogicalOr", "LogicalNot"})


class NotLowerableError(ValueError):
    """An expression mixes dtypes in a way that has no nodes."""


class Lowering:
    """Makes nodes for expressions, one for each distinct part.

    Args:
        make: Makes them.
        dtype: The dtype of all arithmetic; numbers take it.
    """

    def __init__(self, make: NodeMaker, dtype: tf.DType) -> None:
        self._make = make
        self._dtype = dtype
        self._made: dict[Expr, Value] = {}

    def lower(self, expr: Expr) -> Value:
        """Makes the nodes of an expression.

        Args:
            expr: Its leaves' keys are `Value`s.

        Returns:
            The value of the expression; a number becomes a scalar constant.

        Raises:
            NotLowerableError: If a leaf has another floating dtype than the arithmetic.
        """
        for part in subexpressions(expr):
            if part not in self._made:
                self._made[part] = self._part(part)
        return self._made[expr]

    def _part(self, part: Expr) -> Value:
        if isinstance(part, Leaf):
            value = part.key
            assert isinstance(value, Value)
            if value.dtype not in (self._dtype, tf.bool):
                raise NotLowerableError(f"{value} in arithmetic of {self._dtype.name}")
            return value
        if isinstance(part, Const):
            return self._make.number(part.number, self._dtype, "/const")
        assert isinstance(part, Apply)
        inputs = [self._made[a] for a in part.args]
        attrs = dict(part.attrs)
        if part.op_type not in _LOGICAL:
            attrs["T"] = self._dtype
        boolean = part.op_type in _COMPARISONS | _PREDICATES | _LOGICAL
        dtype = tf.bool if boolean else self._dtype
        return self._make.add(part.op_type, inputs, dtype, broadcast_shape(inputs), "", attrs)


def broadcast_shape(values: Sequence[Value]) -> Shape | None:
    """The static shape of an element-wise op's result.

    Args:
        values: Its inputs.

    Returns:
        The shape, unknown where an unknown dimension might be broadcast.
    """
    return broadcast([v.shape for v in values])


def broadcast(shapes: Sequence[Shape | None]) -> Shape | None:
    """Broadcasts static shapes.

    Args:
        shapes: The shapes; `None` for an unknown rank.

    Returns:
        The result's shape, unknown where an unknown dimension might be broadcast.
    """
    ranked = [s for s in shapes if s is not None]
    if len(ranked) < len(shapes):
        return None
    rank = max(map(len, ranked), default=0)
    aligned = [(1,) * (rank - len(s)) + s for s in ranked]
    return tuple(_dimension(sizes) for sizes in zip(*aligned, strict=True))


def _dimension(sizes: Sequence[int | None]) -> int | None:
    known = [s for s in sizes if s is not None and s != 1]
    if known:
        return known[0]
    return None if None in sizes else 1
