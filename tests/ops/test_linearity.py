"""Whether ops are linear in what the table says, and equal their factor times that input."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf
from comparing import NOT_RUN, Array, expression, numbers, unequal
from known_differences import FACTOR_DIFFERENCES
from op_samples import FLOATS, SHAPES, Op, ordinary, runs, special

from nested_fad_tf.emit.expression import build
from nested_fad_tf.ops.derive import absorbs_zero, attributes, derivative
from nested_fad_tf.ops.elementwise import TABLE, linear_inputs, times
from nested_fad_tf.ops.expr import Leaf, fn, select

LINEAR = sorted(n for n, e in TABLE.items() if e.linear and n not in NOT_RUN)


def factor_times_input(
    name: str, i: int, inputs: list[tf.Tensor], dtype: tf.DType
) -> tuple[Array, Array]:
    """A linear op's output, and what its factor makes of the input."""
    op, entry = Op(name), TABLE[name]
    attrs = op.attrs(dtype)
    if entry.joint:
        others = set(linear_inputs(entry, op.arity)) - {i}
        inputs = [tf.zeros_like(x) if k in others else x for k, x in enumerate(inputs)]
    expr = expression(op, {**attrs, "SrcT": dtype} if name == "Cast" else attrs)
    assert entry.partials is not None
    factor = entry.partials(expr.args, expr, attributes(expr))[i]
    assert factor is not None
    y = op(inputs, **attrs)
    product = build(times(entry, factor, Leaf(i)), dict(enumerate(inputs)))
    return numbers(y), numbers(tf.cast(tf.broadcast_to(product, y.shape), y.dtype))


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_op_is_its_factor_times_the_input(name: str) -> None:
    op = Op(name)
    for dtype, samples in itertools.product(FLOATS, (ordinary, special)):
        if samples is special and name in SHAPES:
            continue
        inputs = samples(op, dtype)
        if not runs(lambda i=inputs, d=dtype: op(i, **op.attrs(d))):
            continue
        for i in linear_inputs(TABLE[name], op.arity):
            kernel, product = factor_times_input(name, i, inputs, dtype)
            wrong = unequal(kernel, product, dtype, 0)
            assert not wrong.any() or name in FACTOR_DIFFERENCES, (
                dtype,
                kernel[wrong],
                product[wrong],
            )


@pytest.mark.parametrize("name", FACTOR_DIFFERENCES)
def test_every_known_factor_difference_is_real(name: str) -> None:
    op, (i,) = Op(name), TABLE[name].linear
    kernel, product = factor_times_input(name, i, special(op, tf.float16), tf.float16)
    assert unequal(kernel, product, tf.float16, 0).any()


@pytest.mark.parametrize("name", LINEAR)
def test_linear_inputs_are_linear(name: str) -> None:
    op, entry = Op(name), TABLE[name]
    attrs = op.attrs(tf.float64)
    first, second = ordinary(op, tf.float64), ordinary(op, tf.float64, seed=2)
    inputs = linear_inputs(entry, op.arity)
    # Where inputs are linear together, one of them alone has the others as an offset.
    together = [set(inputs)] if entry.joint else [{i} for i in inputs]

    def value(replaced: set[int], a: float, b: float) -> Array:
        moved = [
            a * x + b * z if k in replaced else x
            for k, (x, z) in enumerate(zip(first, second, strict=True))
        ]
        return numbers(op(moved, **attrs))

    for replaced in together:
        expected = 0.75 * value(replaced, 1, 0) - 1.5 * value(replaced, 0, 1)
        # Single precision, as some ops know no other; what isn't linear is far off.
        np.testing.assert_allclose(value(replaced, 0.75, -1.5), expected, 1e-6, 1e-6)


@pytest.mark.parametrize("name", [n for n in LINEAR if len(TABLE[n].linear) > 1])
def test_joint_says_whether_inputs_are_linear_together(name: str) -> None:
    op, entry = Op(name), TABLE[name]
    inputs = ordinary(op, tf.float64)
    moving = linear_inputs(entry, op.arity)
    doubled = [2 * x if k in moving else x for k, x in enumerate(inputs)]
    assert np.allclose(numbers(op(doubled)), 2 * numbers(op(inputs))) == entry.joint


ROOTS = {
    "sqrt": lambda x: fn("Sqrt", x),
    "masked sqrt": lambda x: select(x > 0.5, 1, 0) * fn("Sqrt", x),
    "product": lambda x: fn("Mul", fn("Sqrt", x), Leaf("m")),
    "rsqrt": lambda x: fn("Rsqrt", x) * Leaf("m"),
    "reciprocal of square root": lambda x: fn("Reciprocal", fn("Sqrt", x)) * Leaf("m"),
}


@pytest.mark.parametrize("case", ROOTS)
def test_roots_absorb_a_zero_gradient(case: str) -> None:
    expr = ROOTS[case](Leaf("x"))
    assert absorbs_zero(expr)
    leaves = {"x": tf.constant([0.0, 0.0, 0.25, 1.0]), "m": tf.constant([0.0, 1.0, 0.0, 1.0])}
    dy = tf.constant([1.0, 0.0, 1.0, 2.0])
    with tf.GradientTape() as tape:
        tape.watch(leaves["x"])
        y = build(expr, leaves)
    theirs = tape.gradient(y, leaves["x"], dy)
    ours = build(fn("MulNoNan", derivative(expr, "x"), Leaf("dy")), {**leaves, "dy": dy})
    np.testing.assert_allclose(ours, theirs)
