"""Derivatives that follow from outputs: which do, how closely, and what is kept for them."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from perceptrons import relative_error
from traced import SQUARE, candidates_of, mish, numbers

import nested_fad_tf as nfad
from nested_fad_tf.ops.expr import Leaf
from nested_fad_tf.plan.inversion import invert
from nested_fad_tf.plan.univariate import Univariate

# What an inversion may be off by, as a part of the derivative's largest value.
ALLOWED = 0.005
TURNING = {
    "gelu": tf.nn.gelu,
    "gelu, approximately": lambda x: tf.nn.gelu(x, approximate=True),
    "silu": tf.nn.silu,
    "mish": mish,
    "upside down": lambda x: 3 - 2 * tf.nn.silu(-x),
    "steep": lambda x: tf.nn.gelu(50 * x),
}
MONOTONE = {"softplus": tf.nn.softplus, "falling": lambda x: -tf.nn.softplus(2 * x)}
NOT_INVERTED = {
    "turns again and again": tf.sin,
    "a derivative without bounds": tf.square,
    "jumps": tf.nn.relu,
    "not defined everywhere": tf.sqrt,
    "constant": lambda x: 0 * x + 1,
    "too steep": lambda x: tf.nn.gelu(1e7 * x),
    "too flat": lambda x: tf.nn.gelu(x / 100),
    "waves as wide as steps": lambda x: tf.nn.gelu(x) + 1e-3 * tf.sin(800 * np.pi * x),
}
DTYPES = {"float64": np.float64, "float32": np.float32, "float16": np.float16}


def evaluated(function):
    def value(x):
        return function(tf.constant(x)).numpy()

    def derivative(x):
        x = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return tape.gradient(y, x).numpy()

    return value, derivative


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [*TURNING, *MONOTONE])
def test_the_error_is_what_it_is_said_to_be(name, dtype):
    value, derivative = evaluated({**TURNING, **MONOTONE}[name])
    found = invert(value, derivative, DTYPES[dtype])
    assert (found.turn is None) == (name in MONOTONE)
    random = np.random.default_rng(0)
    spreads = [(0.05, 4000), (3, 20000), (1000, 2000)]
    inputs = np.concatenate([random.normal(0, spread, count) for spread, count in spreads])
    if found.turn is not None:
        inputs = np.concatenate([inputs, found.turn + random.normal(0, 1e-4, 2000)])
    inputs = inputs.astype(dtype)
    after = np.greater(inputs, np.float32(-np.inf if found.turn is None else found.turn))
    outputs = value(inputs.astype(np.float64)).astype(dtype)
    error = np.abs(found(outputs, after) - derivative(inputs.astype(np.float64))).max()
    assert 0.2 * found.error < error <= 1.05 * found.error
    assert found.error <= ALLOWED * np.abs(derivative(inputs.astype(np.float64))).max()


def test_half_precision_is_reckoned_with():
    value, derivative = evaluated(tf.nn.gelu)
    errors = [invert(value, derivative, dtype).error for dtype in (np.float16, np.float32)]
    assert errors[0] > errors[1]
    assert invert(value, derivative, tf.bfloat16.as_numpy_dtype) is None


@pytest.mark.parametrize("name", NOT_INVERTED)
def test_what_is_not_inverted(name):
    assert invert(*evaluated(NOT_INVERTED[name]), np.float32) is None


def last_output(step):
    """A step's candidates, and the value that it returns."""
    candidates = candidates_of(step, SQUARE, SQUARE)
    (output,) = candidates.view.outputs
    return candidates.view, output


@pytest.mark.parametrize("activation", [*TURNING.values(), *MONOTONE.values()])
def test_an_activation_is_a_function_of_its_input(activation):
    view, output = last_output(lambda x, w: activation(x @ w))
    univariate = Univariate(view)
    source = univariate.source(Leaf(output))
    assert source.node.op_type == "MatMul"
    table = np.linspace(-5, 5, 101)
    found = univariate.tabulate(Leaf(output), source, table)
    np.testing.assert_allclose(found, evaluated(activation)[0](table), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, w: tf.tanh(x @ w) * w,
        lambda x, w: tf.nn.gelu(x @ w + w[0]),
        lambda x, w: tf.add_n([x @ w, x]),
        lambda x, w: tf.tanh(x @ w) * tf.random.normal([]),
    ],
)
def test_a_function_of_two_values_has_no_source_before_they_meet(function):
    view, output = last_output(function)
    source = Univariate(view).source(Leaf(output))
    assert source.node.op_type in {"AddV2", "AddN", "Mul"}


def step_of(activation):
    def step(x, *weights):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            for w in weights:
                x = activation(x @ w)
            loss = tf.reduce_mean(x @ weights[0])
        return loss, tape.gradient(loss, weights)

    return step


def inverting(**changes):
    return nfad.Options(
        strategy="forward_ad", precision="inverse", min_bytes=1024, on_error="raise", **changes
    )


@pytest.mark.parametrize(("width", "fuse"), [(63, "ops"), (64, "xla")])
@pytest.mark.parametrize("name", [*TURNING, *MONOTONE])
def test_a_bit_each_is_kept_beside_the_outputs(name, width, fuse):
    weights = [numbers(width, width, seed=i, scale=1.5 * width**-0.5) for i in range(4)]
    args = [numbers(33, width, seed=9), *weights]
    step = step_of({**TURNING, **MONOTONE}[name])
    rewritten = nfad.function(step, options=inverting(fuse=fuse))
    loss, gradients = rewritten(*args)
    expected, exact = tf.function(step)(*args)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert 0 < relative_error(gradients, exact) < 0.01
    (report,) = rewritten.reports
    kept = [kept for kept in report.kept if kept.format == "inverse"]
    # Of the last one the mean's gradient, a number, is multiplied with the weights alone.
    assert len(kept) == 4
    if name in TURNING:
        packed = 33 * width % 8 == 0
        assert {k.bytes for k in kept} == {33 * width // 8 if packed else 33 * width}
        assert all("lossy: off by at most " in k.why for k in kept)


@pytest.mark.parametrize("activation", [tf.sin, lambda x: x / (1 + tf.abs(x))])
def test_what_does_not_follow_is_kept_as_it_is(activation):
    args = [numbers(32, 64, seed=9), *(numbers(64, 64, seed=i, scale=0.1) for i in range(4))]
    found = nfad.explain(step_of(activation), *args, options=inverting())
    assert {kept.format for kept in found.kept} == {"exact"}


@pytest.mark.parametrize("special", [np.nan, -np.inf])
def test_what_is_not_finite_does_not_come_back_finite(special):
    x = np.ones([32, 64], np.float32)
    x[3, 5] = special
    args = [tf.constant(x), *(tf.eye(64) for _ in range(3))]
    rewritten = nfad.function(step_of(tf.nn.gelu), options=inverting())
    _, gradients = rewritten(*args)
    assert rewritten.reports[-1].changed
    expected = tf.function(step_of(tf.nn.gelu))(*args)[1]
    for found, exact in zip(gradients, expected, strict=True):
        assert not np.isfinite(found[~np.isfinite(exact)]).any()


def test_an_output_that_only_its_own_region_reads_tells_nothing():
    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            # The sum's gradient asks for no output of it.
            loss = tf.reduce_sum(tf.nn.gelu(x @ w) + x) ** 2
        return loss, tape.gradient(loss, w)

    found = nfad.explain(step, numbers(64, 64), numbers(64, 64), options=inverting())
    assert "inverse" not in {kept.format for kept in found.kept}


def scaled(y, scale):
    return mish(y * scale)


def dropped(y, _):
    return tf.nn.experimental.stateless_dropout(tf.nn.gelu(y), 0.25, seed=[1, 2])


@pytest.mark.parametrize("fuse", ["ops", "xla"])
@pytest.mark.parametrize(("layer", "bits"), [(scaled, 1), (dropped, 2)])
def test_a_part_of_a_derivative_follows(layer, bits, fuse):
    def step(x, scale, *weights):
        with tf.GradientTape() as tape:
            tape.watch([scale, *weights])
            for w in weights:
                x = layer(x @ w, scale)
            loss = tf.reduce_mean(x @ weights[0])
        return loss, tape.gradient(loss, [scale, *weights], unconnected_gradients="zero")

    weights = [numbers(64, 64, seed=i, scale=0.2) for i in range(4)]
    args = [numbers(32, 64, seed=9), numbers(64, seed=7), *weights]
    rewritten = nfad.function(step, options=inverting(fuse=fuse))
    loss, gradients = rewritten(*args)
    expected, exact = tf.function(step)(*args)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for found, wanted in zip(gradients, exact, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=0.01 * np.abs(wanted).max())
    (report,) = rewritten.reports
    inverted = [kept.bytes for kept in report.kept if kept.format == "inverse"]
    assert inverted == [bits * 32 * 64 // 8] * 4
    # One float beside the output, which the next product keeps: the scale's gradient needs it.
    exactly = sum(kept.bytes for kept in report.kept if kept.format == "exact")
    assert exactly == 32 * 64 * 4 * (4 + 4 * (layer is scaled))


def test_an_output_behind_another_mask_tells_nothing():
    def step(x, w, v, mask):
        with tf.GradientTape() as tape:
            tape.watch(w)
            for _ in range(4):
                y = tf.nn.gelu(x @ w)
                # What the second product reads isn't kept: nobody asks for the gradient of v.
                x = tf.where(mask, y, 0.0) @ w + tf.where(~mask, y, 0.0) @ v
            loss = tf.reduce_mean(x @ v)
        return loss, tape.gradient(loss, w)

    args = [numbers(64, 64, seed=i, scale=0.3) for i in range(3)]
    args.append(numbers(64, 64, seed=3) > 0)
    rewritten = nfad.function(step, options=inverting())
    _, gradient = rewritten(*args)
    exact = tf.function(step)(*args)[1]
    np.testing.assert_allclose(gradient, exact, rtol=0, atol=0.01 * np.abs(exact).max())
    (report,) = rewritten.reports
    assert [kept.format for kept in report.kept].count("inverse") == 4
