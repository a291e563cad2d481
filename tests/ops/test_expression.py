"""Expressions: folding, interning, differentiation, and the tensors made of them."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import tensorflow as tf

from nested_fad_tf.emit.expression import ExpressionError, build
from nested_fad_tf.ops.derive import NotDifferentiableError, derivative
from nested_fad_tf.ops.expr import (
    Const,
    Expr,
    Leaf,
    equal,
    fn,
    leaves,
    scale,
    select,
    subexpressions,
    substitute,
)

X, Y = Leaf("x"), Leaf("y")


def test_trivial_parts_are_folded() -> None:
    assert X * 1 is X and 1 * X is X and X + 0 is X and X - 0 is X and X / 1 is X
    minus = -X
    assert -minus is X and X * -1 is -X and 0 - X is -X
    assert Const(0) == X * 0 and Const(2) * 3 == Const(6)


def test_equal_expressions_are_one_object() -> None:
    assert fn("Tanh", X) * Y is fn("Tanh", X) * Y
    assert fn("LeakyRelu", X, alpha=0.1) is not fn("LeakyRelu", X, alpha=0.2)
    expr = fn("Tanh", X)
    assert copy.deepcopy(expr) is expr and pickle.loads(pickle.dumps(expr)) is expr


def test_long_chains_are_no_problem() -> None:
    expr: Expr = X
    for _ in range(2000):
        expr = fn("Tanh", expr * expr)
    slope = derivative(expr, "x")
    assert len(list(subexpressions(slope))) < 2000 * 10
    assert leaves(substitute(slope, lambda key: Y)) == {"y"}
    assert len(str(slope)) < 100_000


def test_formulas_are_printed_as_they_are_written() -> None:
    assert str(1 - X * X) == "(1 - (x * x))"
    assert str(-fn("Exp", X)) == "-Exp(x)"


def test_scaling_goes_inside_masks_and_keeps_quotients() -> None:
    assert scale(select(X > 0, 1, 0), Y) is select(X > 0, Y, 0)
    assert scale(Y, select(X > 0, 1, 0)) is select(X > 0, Y, 0)
    assert scale(1 / X, Y) is Y / X
    assert scale(1 / X, select(X > 0, Y, 0)) is select(X > 0, Y / X, 0)


def test_sums_behind_one_mask_are_selected_once() -> None:
    masked = select(X > 0, X, 0)
    assert masked + select(X > 0, Y, 0) is select(X > 0, X + Y, 0)
    assert (masked + select(Y > 0, Y, 0)).op_type == "AddV2"  # type: ignore[attr-defined]
    assert (masked + select(X > 0, Y, 1)).op_type == "AddV2"  # type: ignore[attr-defined]


def test_masks_nest_without_growing() -> None:
    slope: Expr = Const(1)
    for i in range(60):
        slope = scale(select(Leaf(i) > 0, 1, 0.5 if i % 2 else 0), slope)
    assert len(list(subexpressions(slope))) < 60 * 10


def test_derivatives_stop_at_comparisons() -> None:
    assert derivative(select(X > 0, X, 0), "x") is select(X > 0, 1, 0)
    assert derivative(fn("Cast", X > 0, DstT=tf.float32), "x") == Const(0)
    assert derivative(fn("Tanh", Y), "x") == Const(0)


def test_known_derivatives_can_be_handed_in() -> None:
    assert derivative(X * Y, "x", {Y: Leaf("dy/dx")}) is Y + X * Leaf("dy/dx")


@pytest.mark.parametrize("op_type", ["Zeta", "Mod", "MatrixInverse"])
def test_missing_derivatives_are_refused(op_type: str) -> None:
    with pytest.raises(NotDifferentiableError, match=op_type):
        derivative(fn(op_type, X, Y), "x")


@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
@pytest.mark.parametrize("leaf", ["x", "b"])
def test_bias_add_finds_its_channels(data_format: str, leaf: str) -> None:
    x, b = tf.random.normal([2, 3, 3, 3]), tf.random.normal([3])
    expr = fn("Tanh", fn("BiasAdd", X, Leaf("b") * Leaf("b"), data_format=data_format))
    with tf.GradientTape() as tape:
        tape.watch([x, b])
        y = build(expr, {"x": x, "b": b})
    slope = build(derivative(expr, leaf), {"x": x, "b": b})
    if leaf == "b":
        slope = tf.reduce_sum(slope, [0, 1, 2] if data_format == "NHWC" else [0, 2, 3])
    np.testing.assert_allclose(slope, tape.gradient(y, x if leaf == "x" else b), 1e-5, 1e-6)


def test_the_derivative_of_a_cast_is_cast() -> None:
    expr = fn("Tanh", fn("Cast", X * X, DstT=tf.float64))
    slope = build(derivative(expr, "x"), {"x": tf.constant([0.5])})
    assert slope.dtype == tf.float64
    np.testing.assert_allclose(slope, 1 - np.tanh(0.25) ** 2, rtol=1e-6)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float32, tf.float64])
def test_numbers_take_the_dtype_of_the_tensors(dtype: tf.DType) -> None:
    x = tf.constant([-1.0, 2.0], dtype)
    assert build(2 * X + 1, {"x": x}).dtype == dtype
    assert build(select(X > 0, 1, 0), {"x": x}).dtype == dtype
    assert build(select(X > 0, 1, 0) * select(equal(X, 2), 0.5, 0), {"x": x}).dtype == dtype
    assert build(X > 0, {"x": x}).dtype == tf.bool
    assert build(Const(1), {}, dtype=dtype).dtype == dtype


def test_common_parts_are_computed_once() -> None:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [3])
        memo: dict = {}
        build(fn("Tanh", X) * fn("Tanh", X), {"x": x}, memo)
        build(1 - fn("Tanh", X), {"x": x}, memo)
        assert [op.type for op in graph.get_operations()].count("Tanh") == 1


def test_ops_with_lists_and_renamed_arguments() -> None:
    a, b = tf.constant([1.0, 2.0]), tf.constant([3.0, 4.0])
    np.testing.assert_array_equal(build(fn("AddN", X, Y, X), {"x": a, "y": b}), [5, 8])
    np.testing.assert_array_equal(build(fn("Select", X > 1, X, Y), {"x": a, "y": b}), [3, 2])


@pytest.mark.parametrize(
    ("expr", "message"),
    [
        (fn("Tanh", Leaf("z")), "no tensor was given for leaf 'z'"),
        (fn("NoSuchOp", X), "no op 'NoSuchOp'"),
        (X + Y, "is float64 where float32 is needed"),
        (fn("Mul", X), "not 1 inputs"),
        (Const(1), "nothing tells the dtype"),
        (Const(1) > 2, "nothing tells the dtype"),
    ],
)
def test_mistakes_are_named(expr: Expr, message: str) -> None:
    tensors = {"x": tf.constant([1.0]), "y": tf.constant([1.0], tf.float64)}
    with pytest.raises(ExpressionError, match=message):
        build(expr, tensors)


def test_expressions_are_equal_only_if_they_are_the_same():
    x, y = Leaf("x"), Leaf("y")
    assert x * y == x * y and x == Leaf("x")
    assert x * y != x + y and x * y != y * x
    assert x + y not in (x * y, x, y)
