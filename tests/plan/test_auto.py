"""What is simulated of a second cut, and what is expected of it."""

from __future__ import annotations

import pytest
import tensorflow as tf
from traced import SIDE, SQUARE, assert_same, candidates_of, mish, normalized, numbers

import nested_fad_tf as nfad
from nested_fad_tf.plan import auto

OPTIONS = nfad.Options(fuse="ops", min_bytes=1024, on_error="raise")


def dropped_out(x):
    return tf.nn.experimental.stateless_dropout(tf.nn.gelu(x), 0.5, seed=[1, 2])


def step_of(activation, *, residual=False):
    weights = [tf.Variable(numbers(SIDE, SIDE, seed=i, scale=SIDE**-0.5)) for i in range(8)]

    def step(x):
        with tf.GradientTape() as tape:
            for weight in weights:
                x = activation(tf.matmul(x, weight) + 0.1) + (x if residual else 0.0)
            loss = tf.reduce_mean(tf.square(x))
        return loss, tape.gradient(loss, weights)

    return step


@pytest.fixture
def attempts(monkeypatch):
    """What was expected of each cut after the first, and what it came to."""
    expected, tried = [], []
    expect, attempt = auto._expected, auto.attempt

    def expecting(*args):
        expected.append(expect(*args))
        return expected[-1]

    def trying(*args):
        tried.append(attempt(*args))
        return tried[-1]

    monkeypatch.setattr(auto, "_expected", expecting)
    monkeypatch.setattr(auto, "attempt", trying)
    return expected, tried


@pytest.mark.parametrize("activation", [mish, tf.nn.gelu, tf.nn.silu, normalized, dropped_out])
@pytest.mark.parametrize("residual", [False, True])
def test_a_cut_costs_what_was_expected_of_it(activation, residual, attempts, monkeypatch):
    monkeypatch.setattr(auto, "_PROMISING", float("inf"))
    step = step_of(activation, residual=residual)
    assert auto.plan(candidates_of(step, SQUARE), OPTIONS).rewrite
    expected, tried = attempts
    assert len(tried) == 2
    assert tried[1].price == pytest.approx(expected[0], rel=0.1)


def test_what_doesnt_promise_anything_isnt_simulated(attempts, monkeypatch):
    monkeypatch.setattr(auto, "_PROMISING", 0.0)
    step = step_of(mish, residual=True)
    function = nfad.function(step, options=OPTIONS)
    x = numbers(SIDE, SIDE, seed=9)
    assert_same(function(x), tf.function(step)(x))
    assert function.reports[-1].changed
    assert [len(found) for found in attempts] == [1, 1]


def test_the_same_cut_promises_nothing(attempts):
    candidates = candidates_of(step_of(mish), SQUARE)
    auto.plan(candidates, OPTIONS)
    first = attempts[1][0]
    assert auto._expected(candidates, first, first.cut, first.seconds) == first.price
