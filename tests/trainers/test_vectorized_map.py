"""`vectorized_map`: gradients of single examples, inside and outside of what is rewritten."""

from __future__ import annotations

import pytest
import tensorflow as tf
from traced import mish
from trainers import OPTIONS, assert_fired, assert_same, numbers

import nested_fad_tf as nfad

EXAMPLES, ROWS, WIDTH = 8, 128, 32
WEIGHTS = [tf.Variable(numbers(WIDTH, WIDTH, seed=i, scale=WIDTH**-0.5)) for i in range(4)]
X = tf.constant(numbers(EXAMPLES, ROWS, WIDTH, seed=9))
Y = tf.constant(numbers(EXAMPLES, ROWS, WIDTH, seed=8))


def network(x):
    for weight in WEIGHTS:
        x = mish(x @ weight)
    return x @ WEIGHTS[0]


def loss_of(example, call=network):
    x, y = example
    return tf.reduce_mean(tf.square(call(x) - y))


def gradients_of(example, call=network):
    with tf.GradientTape() as tape:
        loss = loss_of(example, call)
    return loss, tape.gradient(loss, WEIGHTS)


def private(x, y):
    """Gradients of single examples, clipped and then averaged, as for differential privacy."""
    losses, gradients = tf.vectorized_map(gradients_of, (x, y))
    norms = tf.sqrt(sum(tf.reduce_sum(tf.square(g), [1, 2]) for g in gradients))
    scale = tf.minimum(1.0, 1e-3 / norms)
    return losses, [tf.einsum("e,eab->ab", scale, g) / EXAMPLES for g in gradients]


def tape_around(x, y):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.vectorized_map(loss_of, (x, y)))
    return loss, tape.gradient(loss, WEIGHTS)


@pytest.mark.parametrize("step", [private, tape_around])
def test_inside_a_step(step):
    function = nfad.function(step, options=OPTIONS)
    actual = function(X, Y)
    assert_fired(function.reports)
    assert_same(actual, tf.function(step)(X, Y))


def test_an_eager_one_is_traced_and_rewritten():
    expected = tf.vectorized_map(gradients_of, (X, Y))
    with nfad.rewriting(OPTIONS) as session:
        actual = tf.vectorized_map(gradients_of, (X, Y))
    assert_fired(session.reports)
    assert_same(actual, expected)


@pytest.mark.parametrize("fuse", ["ops", "xla"])
def test_over_a_rewritten_step(fuse):
    """What the step became is vectorized, barriers, triggers and all."""
    function = nfad.function(gradients_of, options=OPTIONS.replace(fuse=fuse))
    actual = tf.vectorized_map(function, (X, Y))
    assert_fired(function.reports)
    assert_same(actual, tf.vectorized_map(gradients_of, (X, Y)))


@pytest.mark.parametrize("fuse", ["ops", "xla"])
def test_over_a_rewritten_network(fuse):
    """Its gradient is that of the chains, vectorized."""
    call = nfad.function(network, options=OPTIONS.replace(fuse=fuse))
    actual = tf.vectorized_map(lambda example: gradients_of(example, call), (X, Y))
    assert_fired(call.reports)
    assert_same(actual, tf.vectorized_map(gradients_of, (X, Y)))
