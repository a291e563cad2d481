"""What a cone and its gradient compute, as plain ops or as compiled functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from nested_fad_tf.emit import expression, function
from nested_fad_tf.graph.nodes import Value
from nested_fad_tf.ops.derive import absorbs_zero
from nested_fad_tf.ops.expr import Const, Expr, Leaf, is_const, masks, substitute
from nested_fad_tf.plan.outside import Residual


def products(
    residual: Residual, cotangent: tf.Tensor, kept: Sequence[tf.Tensor]
) -> list[tf.Tensor | None]:
    """Multiplies a cotangent by a cone's derivatives, with ops in the current graph.

    Args:
        residual: The cone and its derivatives.
        cotangent: The cotangent of its result.
        kept: What the derivatives are computed from.

    Returns:
        For each active input the product, of the result's shape; `None` for zero.
    """
    memo, leaves = _memo(residual, kept), _leaves(residual)
    absorbing = absorbs_zero(residual.cone.expr)
    found: list[tf.Tensor | None] = []
    for derived in residual.derivatives:
        number = isinstance(derived, Const)
        factor = None if number else expression.build(derived, leaves, memo, cotangent.dtype)
        found.append(times(cotangent, derived, factor, absorbing))
    return found


def copy(residual: Residual, kept: Sequence[tf.Tensor]) -> tf.Tensor:
    """Computes a cone's result again, with ops in the current graph.

    Args:
        residual: The cone.
        kept: What it is computed from.

    Returns:
        The result.
    """
    return expression.build(
        residual.cone.expr, _leaves(residual), _memo(residual, kept), residual.cone.output.dtype
    )


def _memo(residual: Residual, kept: Sequence[tf.Tensor]) -> dict[Any, tf.Tensor]:
    memo: dict[Any, tf.Tensor] = {}
    for expr, tensor in zip(residual.kept, kept, strict=True):
        memo[expr, None] = memo[expr, tensor.dtype] = tensor
    return memo


def _leaves(residual: Residual) -> Any:
    """What isn't kept has a dtype only: it must not be read."""
    return {v: tf.TensorSpec(v.shape, v.dtype) for v in residual.cone.inputs}


class Kernels:
    """Compiled functions of cones; cones of equal structure share theirs."""

    def __init__(self) -> None:
        """Starts without any."""
        self._functions: dict[Any, Any] = {}

    def forward(
        self, residual: Residual, tensors: Mapping[Any, tf.Tensor]
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Calls the function that computes a cone's result and what is kept of it.

        Args:
            residual: The cone.
            tensors: Its inputs.

        Returns:
            The result and the kept tensors.
        """
        cone, inputs = residual.cone, residual.cone.inputs
        names = residual.made
        made = list(names)

        def body(arguments: Sequence[tf.Tensor]) -> list[tf.Tensor]:
            leaves: Any = dict(zip(inputs, arguments, strict=True))
            memo: dict[Any, tf.Tensor] = {}
            dtype = cone.output.dtype
            return [expression.build(e, leaves, memo, dtype, names) for e in (cone.expr, *made)]

        key = structure(residual, (cone.expr, *made)), tuple(names.values())
        call = self._get("forward", key, [_spec(v) for v in inputs], body)
        result, *rest = call(*(tensors[v] for v in inputs))
        result.set_shape(cone.output.shape)
        found = {cone.expr: result, **dict(zip(made, rest, strict=True))}
        return result, [tensors[e.key] if isinstance(e, Leaf) else found[e] for e in residual.kept]

    def backward(self, residual: Residual, kept: Sequence[tf.Tensor]) -> Any:
        """The function that multiplies a cotangent by a cone's derivatives.

        Args:
            residual: The cone.
            kept: What is kept of it, as it is in the forward pass.

        Returns:
            The function: from the cotangent and the kept tensors to the products.
        """
        specs = [_spec(residual.cone.output), *(tf.TensorSpec(k.shape, k.dtype) for k in kept)]

        def body(arguments: Sequence[tf.Tensor]) -> list[tf.Tensor]:
            found = products(residual, arguments[0], arguments[1:])
            pairs = zip(found, residual.derivatives, strict=True)
            return [p for p, d in pairs if p is not None and not isinstance(d, Const)]

        # What is kept and what is derived are told apart: together they could read alike.
        key = structure(residual, residual.kept), structure(residual, residual.derivatives)
        return self._get("backward", key, specs, body)

    def again(self, residual: Residual, kept: Sequence[tf.Tensor]) -> Any:
        """The function that computes a cone's result from what is kept of it.

        Args:
            residual: The cone.
            kept: What is kept of it, as it is in the forward pass.

        Returns:
            The function: from the kept tensors to the result, alone in a list.
        """
        key = structure(residual, residual.kept), structure(residual, (residual.cone.expr,))
        specs = [tf.TensorSpec(k.shape, k.dtype) for k in kept]
        return self._get("again", key, specs, lambda given: [copy(residual, given)])

    def _get(self, kind: str, key: Any, specs: Sequence[tf.TensorSpec], body: Any) -> Any:
        if (kind, key) not in self._functions:
            self._functions[kind, key] = function.build(kind, specs, body, compiled=True)
        return self._functions[kind, key]


def structure(residual: Residual, exprs: Sequence[Expr]) -> Any:
    """What expressions of a cone look like, whatever the cone is of.

    Args:
        residual: The cone.
        exprs: Expressions over its inputs.

    Returns:
        A key: equal for cones of equal structure, dtypes and shapes.
    """
    place: dict[Any, Expr] = {v: Leaf(i) for i, v in enumerate(residual.cone.inputs)}
    memo: dict[Expr, Expr] = {}
    shown = tuple(substitute(e, place.__getitem__, memo) for e in exprs)
    return shown, tuple((v.dtype, v.shape) for v in residual.cone.inputs)


def _spec(value: Value) -> tf.TensorSpec:
    return tf.TensorSpec(value.shape, value.dtype)


def times(
    cotangent: tf.Tensor, derived: Expr, factor: tf.Tensor | None, absorbing: bool
) -> tf.Tensor | None:
    """The product of a cotangent and a derivative, where one or the other may be infinite.

    Args:
        cotangent: The cotangent.
        derived: The derivative.
        factor: Its value; `None` if it is a number.
        absorbing: Whether a cotangent of zero gives zero however large the derivative is.

    Returns:
        The product; `None` for zero.
    """
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
