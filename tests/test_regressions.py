"""Steps on which random testing once found a wrong result, made small."""

from __future__ import annotations

import numpy as np
import pytest
import random_graphs
import tensorflow as tf

import nested_fad_tf as nfad

ROWS, COLUMNS = 32, 32


def numbers(*shape, seed=0):
    return tf.constant(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def assert_same(step, *args, options, rtol=1e-5):
    """Forces the rewrite; compares every output, and where it isn't finite."""
    with random_graphs.eager(forced=True):
        rewritten = nfad.function(step, options=options, autograph=False)
        actual = rewritten(*args)
    assert rewritten.reports[-1].changed
    expected = tf.function(step, autograph=False)(*args)
    for got, want in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True):
        got, want = np.asarray(got), np.asarray(want)
        finite = np.isfinite(want)
        assert np.isfinite(got[finite]).all()
        largest = np.abs(want[finite]).max(initial=1e-30)
        np.testing.assert_allclose(got[finite], want[finite], rtol=0, atol=rtol * largest)


@pytest.mark.parametrize("strategy", ["auto", "recompute"])
def test_a_maximum_finds_what_it_was_taken_of(strategy):
    """A compiled group contracts the sum; its result differs from the kernel's in the last bit."""

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            h = tf.round(x) + 0.1 * x
            ratio = tf.math.divide_no_nan(h, tf.nn.relu(h))
            y = tf.exp(h - tf.reduce_max(h, 1, keepdims=True))
            loss = tf.reduce_sum(tf.sin(ratio)) + tf.reduce_sum(tf.sin(y))
        return loss, tape.gradient(loss, x)

    for fuse in ("xla", "ops"):
        options = nfad.Options(strategy=strategy, fuse=fuse, min_bytes=1, on_error="raise")
        assert_same(step, numbers(256, 13), options=options)


def test_a_minimum_finds_what_it_was_taken_of():
    """TensorFlow's graph optimizer makes (0.3 * bias) * x of a product that nobody else reads."""

    def step(x, bias):
        with tf.GradientTape() as tape:
            tape.watch([x, bias])
            h = tf.exp(0.3 * (bias * x))
            loss = 0.1 * tf.reduce_sum(tf.sin(tf.reduce_min(h, 0)))
        return loss, tape.gradient(loss, [x, bias])

    options = nfad.Options(strategy="recompute", fuse="ops", min_bytes=256, on_error="raise")
    assert_same(step, numbers(ROWS, COLUMNS), numbers(COLUMNS, seed=1), options=options)


@pytest.mark.parametrize("fuse", ["xla", "ops"])
def test_a_masked_out_cotangent_may_be_a_nan(fuse):
    def step(x, t):
        with tf.GradientTape() as tape:
            tape.watch(x)
            h = x * tf.sigmoid(x)
            safe = tf.minimum(h, tf.math.multiply_no_nan(1.0 / x, tf.cast(x > 0.1, x.dtype)))
            quotient = t / safe  # infinite where the mask is off; its sine is a nan
            loss = tf.reduce_mean(tf.sin(quotient))
        return tape.gradient([loss, quotient], x)

    options = nfad.Options(strategy="forward_ad", fuse=fuse, min_bytes=1024, on_error="raise")
    assert_same(step, numbers(ROWS, COLUMNS), numbers(ROWS, COLUMNS, seed=1), options=options)


@pytest.mark.parametrize("strategy", ["auto", "recompute", "forward_ad"])
def test_groups_of_a_second_derivative_do_not_wait_for_each_other(strategy):
    def step(x, scale, bias):
        with tf.GradientTape() as outer:
            outer.watch([x, scale, bias])
            with tf.GradientTape() as tape:
                tape.watch(x)
                normal = tf.nn.batch_normalization(x, *tf.nn.moments(x, [0]), bias, scale, 1e-3)
                h = tf.atan2(x, tf.abs(normal) + 0.5)
                h = h * tf.sigmoid(h)
                other = tf.cast(tf.nn.silu(tf.cast(x, tf.bfloat16)), x.dtype)
                loss = tf.reduce_mean(h) + 0.1 * tf.reduce_sum(tf.sin(h) + tf.sin(other))
            inner = tape.gradient(loss, x)
            total = loss + tf.reduce_sum(tf.square(inner))
        return loss, inner, outer.gradient(total, [x, scale, bias])

    options = nfad.Options(strategy=strategy, fuse="xla", min_bytes=1024, on_error="raise")
    arguments = numbers(ROWS, COLUMNS), numbers(COLUMNS), numbers(COLUMNS)
    assert_same(step, *arguments, options=options, rtol=2e-2)  # of bfloat16


def test_groups_that_only_wait_for_each_other_do_so_one_way():
    def step(x, t):
        with tf.GradientTape() as tape:
            tape.watch(x)
            h = tf.pow(tf.abs(t) + 0.1, tf.tanh(x))
            loss = tf.reduce_sum(tf.sin(tf.reduce_min(h, 0))) + 0.1 * tf.reduce_sum(tf.sin(x))
        return loss, tape.gradient(loss, x)

    options = nfad.Options(strategy="recompute", fuse="xla", min_bytes=1024, on_error="raise")
    assert_same(step, numbers(ROWS, COLUMNS), numbers(ROWS, COLUMNS, seed=1), options=options)


def test_what_is_made_of_constants_alone_is_added_after_them():
    """A mask drawn from a constant seed is packed by numbers that are other constants."""

    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(x)
            h = tf.exp(0.3 * tf.nn.experimental.stateless_dropout(x, 0.3, seed=[5, 2]))
            product = tf.matmul(x, w, transpose_b=True)
            squares = 0.1 * tf.reduce_sum(tf.square(x), 1, keepdims=True)
            loss = sum(0.1 * tf.reduce_sum(tf.sin(y)) for y in (h, product, squares))
        return loss, tape.gradient(loss, x)

    options = nfad.Options(fuse="ops", min_bytes=1, budget=1, on_error="raise")
    assert_same(step, numbers(ROWS, 13), numbers(13, 13, seed=1), options=options)


def test_what_is_only_waited_for_is_in_no_group():
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            h = tf.nn.softplus(x)
            safe = tf.math.multiply_no_nan(1.0 / h, tf.cast(h > 0.1, h.dtype))
            h = tf.nn.softplus(tf.nn.relu6(safe))
            loss = tf.reduce_sum(tf.sin(tf.cast(tf.cast(h, tf.bfloat16), h.dtype)))
        return loss, tape.gradient(loss, x)

    options = nfad.Options(strategy="forward_ad", fuse="xla", min_bytes=1, on_error="raise")
    assert_same(step, tf.cast(numbers(7, COLUMNS), tf.float64), options=options)
