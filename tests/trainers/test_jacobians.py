"""`jacobian` and `batch_jacobian`, which turn a backward pass into one for many cotangents."""

from __future__ import annotations

import functools

import pytest
import tensorflow as tf
from traced import mish
from trainers import OPTIONS, assert_fired, assert_same, numbers

import nested_fad_tf as nfad

ROWS, WIDTH, OUTPUTS = 256, 64, 4
WEIGHTS = [tf.Variable(numbers(WIDTH, WIDTH, seed=i, scale=WIDTH**-0.5)) for i in range(4)]
X = tf.constant(numbers(ROWS, WIDTH, seed=9))
LOOP_OR_NOT = pytest.mark.parametrize("vectorized", [True, False])


def network(x):
    for weight in WEIGHTS:
        x = mish(x @ weight)
    return x


def both(step, *args):
    """What the step gives, rewritten and plain, and the reports."""
    function = nfad.function(step, options=OPTIONS)
    return function(*args), tf.function(step)(*args), function.reports


@LOOP_OR_NOT
def test_of_each_example(vectorized):
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            out = network(x)[:, :OUTPUTS]
        return out, tape.batch_jacobian(out, x, experimental_use_pfor=vectorized)

    actual, expected, reports = both(step, X)
    assert_fired(reports)
    assert_same(actual, expected)


def of_weights(outputs, vectorized, x):
    with tf.GradientTape() as tape:
        out = tf.reduce_mean(network(x), 0)[:outputs]
    return out, tape.jacobian(out, WEIGHTS, experimental_use_pfor=vectorized)


@pytest.mark.parametrize(("outputs", "vectorized"), [(1, True), (OUTPUTS, False)])
def test_of_weights(outputs, vectorized):
    actual, expected, reports = both(functools.partial(of_weights, outputs, vectorized), X)
    assert_fired(reports)
    assert_same(actual, expected)


def test_the_peak_is_among_many_cotangents():
    """Each takes as much as what is kept, and they are there at once."""
    actual, expected, (report,) = both(functools.partial(of_weights, 16, True), X)
    assert report.changed or "nothing to be gained" in report.reason
    assert_same(actual, expected)


def test_a_loss_of_a_jacobian():
    """A contractive network: a gradient of the jacobian."""

    def step(x):
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                inner.watch(x)
                out = network(x)[:, :OUTPUTS]
            slopes = inner.batch_jacobian(out, x)
            loss = tf.reduce_mean(tf.square(out)) + tf.reduce_mean(tf.square(slopes))
        return loss, outer.gradient(loss, WEIGHTS)

    actual, expected, reports = both(step, X)
    assert_fired(reports)
    assert_same(actual, expected)


@LOOP_OR_NOT
@pytest.mark.parametrize("fuse", ["ops", "xla"])
def test_from_outside_of_a_rewritten_function(vectorized, fuse):
    def jacobians(call):
        with tf.GradientTape(persistent=True) as tape:
            out = tf.reduce_mean(call(X), 0)[:OUTPUTS]
        return tape.jacobian(out, WEIGHTS, experimental_use_pfor=vectorized)

    def call(x):
        return network(x) @ WEIGHTS[0]

    function = nfad.function(call, options=OPTIONS.replace(fuse=fuse))
    actual, expected = jacobians(function), jacobians(tf.function(call))
    assert_fired(function.reports)
    assert_same(actual, expected)


def test_a_hessian():
    def step(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                loss = tf.reduce_mean(tf.square(network(x + X)))
            gradient = inner.gradient(loss, x)[:OUTPUTS]
        return gradient, outer.jacobian(gradient, x)

    actual, expected, (report,) = both(step, X[0])
    assert report.changed or "nothing to be gained" in report.reason
    assert_same(actual, expected)
