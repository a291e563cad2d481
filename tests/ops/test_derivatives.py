"""The derivative rules of the whole table against TensorFlow's own gradients.

Every test runs over all lines of the table, so a new line is covered without a new test.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import known_differences
import numpy as np
import pytest
import tensorflow as tf
from comparing import NOT_RUN, Array, expression, numbers, unequal
from known_differences import DIFFERENCES
from op_samples import FLOATS, REFUSALS, SHAPES, Op, broadcast, ordinary, runs, special

from nested_fad_tf.emit.expression import build
from nested_fad_tf.ops.derive import NotDifferentiableError, derivative
from nested_fad_tf.ops.elementwise import TABLE
from nested_fad_tf.ops.expr import Expr

DIFFERENTIABLE = sorted(n for n, e in TABLE.items() if e.partials is not None and n not in NOT_RUN)


def rule_derivative(
    op: Op, inputs: Sequence[tf.Tensor], attrs: dict[str, Any], by: Sequence[int]
) -> Array | None:
    """The derivative by the rules; `None` if they have none."""
    expr: Expr = expression(op, attrs)
    try:
        for leaf in by:
            expr = derivative(expr, leaf)
        result = build(expr, dict(enumerate(inputs)), dtype=inputs[by[0]].dtype)
    except (NotDifferentiableError, *REFUSALS):
        return None
    return numbers(tf.broadcast_to(result, op(inputs, **attrs).shape))


def tape_derivative(
    op: Op, inputs: Sequence[tf.Tensor], attrs: dict[str, Any], by: Sequence[int]
) -> Array | None:
    """TensorFlow's gradient at dy = 1; `None` if it has none."""
    floats = [x for x in inputs if x.dtype.is_floating]
    try:
        with tf.GradientTape() as outer:
            outer.watch(floats)
            with tf.GradientTape() as inner:
                inner.watch(floats)
                y = op(inputs, **attrs)
            gradient = inner.gradient(y, inputs[by[0]])
        if gradient is not None and len(by) == 2:
            gradient = outer.gradient(gradient, inputs[by[1]])
    except (LookupError, *REFUSALS):
        return None
    return None if gradient is None else numbers(gradient)


def differing(
    op: Op, dtype: tf.DType, inputs: Sequence[tf.Tensor], by: Sequence[int], scale: float
) -> str:
    """Compares one derivative at some inputs; tells the first difference."""
    attrs = op.attrs(dtype)
    ours, theirs = rule_derivative(op, inputs, attrs, by), tape_derivative(op, inputs, attrs, by)
    if theirs is None:
        # No gradient means zero to TensorFlow, where it isn't a refusal.
        return "" if ours is None or not ours.any() else "TensorFlow has no gradient"
    if ours is None:
        return "the rules have no derivative"
    summed = ours.size // max(theirs.size, 1)
    ours = sum_to(ours, theirs.shape)
    wrong = unequal(theirs, ours, dtype, scale * summed)
    if not wrong.any():
        return ""
    at = int(np.flatnonzero(wrong)[0])
    where = [float(numbers(x).ravel()[at % max(1, x.shape.num_elements())]) for x in inputs]
    return f"{dtype.name} at {where}: {theirs.ravel()[at]} in TensorFlow, {ours.ravel()[at]} here"


def sum_to(array: Array, shape: tuple[int, ...]) -> Array:
    """Sums over the axes along which an input was broadcast."""
    padded = (1,) * (array.ndim - len(shape)) + shape
    axes = tuple(i for i, (n, p) in enumerate(zip(array.shape, padded, strict=True)) if n != p)
    return array.sum(axes, keepdims=True).reshape(shape)


def orders(op: Op, order: int) -> list[tuple[int, ...]]:
    moving = [i for i, dtype in enumerate(op.dtypes(tf.float32)) if dtype.is_floating]
    return list(itertools.product(moving, repeat=order))


def sweep(name: str, order: int, samples: Callable[[Op, tf.DType], Any], scale: float) -> None:
    """Compares all derivatives of one order in all dtypes that the op has a kernel for."""
    op, ran = Op(name), 0
    for dtype in FLOATS:
        for inputs in samples(op, dtype):
            if not runs(lambda op=op, i=inputs, d=dtype: op(i, **op.attrs(d))):
                continue
            ran += 1
            for by in orders(op, order):
                found = differing(op, dtype, inputs, by, scale)
                assert not found or (name, by) in DIFFERENCES, f"{name} by {by}: {found}"
    assert ran, f"{name} ran in no dtype: give it inputs in op_samples.py"


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_first_derivatives_equal_tensorflows(name: str) -> None:
    sweep(name, 1, lambda op, dtype: [ordinary(op, dtype), *broadcast(op, dtype)], scale=1)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_second_derivatives_equal_tensorflows(name: str) -> None:
    sweep(name, 2, lambda op, dtype: [ordinary(op, dtype)], scale=1)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", [n for n in DIFFERENTIABLE if n not in SHAPES])
def test_special_values_are_tensorflows_or_better(name: str, order: int) -> None:
    sweep(name, order, lambda op, dtype: [special(op, dtype)], scale=0)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_the_samples_meet_the_domain(name: str) -> None:
    op = Op(name)
    attrs = op.attrs(tf.float64)
    y = numbers(op(ordinary(op, tf.float64), **attrs))
    assert np.isfinite(y).mean() > 0.2, "give the op a domain in op_samples.py"


@pytest.mark.parametrize("key", DIFFERENCES, ids=str)
def test_every_known_difference_is_real(key: tuple[str, tuple[int, ...]]) -> None:
    name, by = key
    op = Op(name)
    assert any(
        differing(op, dtype, inputs, by, scale)
        for dtype in FLOATS
        for inputs, scale in [(ordinary(op, dtype), 1.0), (special(op, dtype), 0.0)]
        if runs(lambda d=dtype, i=inputs: op(i, **op.attrs(d)))
    )


NO_GRADIENT = [key for key, known in DIFFERENCES.items() if known.tensorflow == "none"]


@pytest.mark.parametrize("key", [k for k in NO_GRADIENT if "FakeQuant" not in k[0]], ids=str)
def test_derivatives_tensorflow_lacks_equal_finite_differences(
    key: tuple[str, tuple[int, ...]],
) -> None:
    name, by = key
    op, step = Op(name), 1e-6
    inputs = ordinary(op, tf.float64)
    shifted = []
    for sign in (1, -1):
        moved = [x + sign * step if i == by[-1] else x for i, x in enumerate(inputs)]
        below = rule_derivative(op, moved, {}, by[:-1]) if len(by) > 1 else numbers(op(moved))
        assert below is not None
        shifted.append(below)
    ours = rule_derivative(op, inputs, {}, by)
    np.testing.assert_allclose(ours, (shifted[0] - shifted[1]) / (2 * step), rtol=1e-5, atol=1e-7)


def test_the_documentation_lists_the_known_differences() -> None:
    assert known_differences.documented() == known_differences.markdown().strip(), (
        "run python tests/ops/known_differences.py"
    )
