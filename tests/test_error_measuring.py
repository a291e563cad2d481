"""`nfad.measure_errors`: the errors are those of what comes back, and nothing is left behind."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from traced import mish, numbers

import nested_fad_tf as nfad

ROWS, WIDTH = 64, 256
X = numbers(ROWS, WIDTH, seed=9)


def step_of(activation, weights, count):
    def step(x):
        with tf.GradientTape() as tape:
            for weight in weights:
                x = activation(x @ weight)
            loss = tf.reduce_mean(x @ weights[0])
        gradients = tape.gradient(loss, weights)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.assign_sub(0.1 * gradient)
        count.assign_add(1)
        return loss

    return step


@pytest.fixture
def weights():
    return [tf.Variable(numbers(WIDTH, WIDTH, seed=i, scale=0.1)) for i in range(4)]


@pytest.fixture
def count():
    return tf.Variable(0)


def errors_of(report, name):
    return [kept.error for kept in report.kept if kept.format == name]


def rounded(array, levels):
    """The nearest of equal steps over each row's range and zero."""
    low, high = np.minimum(array.min(1), 0), np.maximum(array.max(1), 0)
    scale = ((high - low) / levels)[:, None]
    zero = np.floor(0.5 - low[:, None] / scale)
    return (np.floor(array / scale + zero + 0.5) - zero) * scale


@pytest.mark.parametrize(("name", "levels"), [("int8", 255), ("int4", 15), ("int2", 3)])
def test_the_error_is_that_of_rounding(weights, count, name, levels):
    options = nfad.Options(strategy="forward_ad", precision=name, min_bytes=1024)
    report = nfad.measure_errors(step_of(mish, weights, count), X, options=options)
    x = tf.constant(X)
    wanted = []
    for weight in weights:
        z = x @ weight
        with tf.GradientTape() as tape:
            tape.watch(z)
            x = mish(z)
        derivative = tape.gradient(x, z).numpy().astype(np.float64)
        apart = np.linalg.norm(rounded(derivative, levels) - derivative)
        wanted.append(apart / np.linalg.norm(derivative))
    np.testing.assert_allclose(sorted(errors_of(report, name)), sorted(wanted), rtol=0.01)


def test_the_step_is_undone(weights, count):
    before = [weight.numpy() for weight in weights]
    step = step_of(tf.nn.gelu, weights, count)
    report = nfad.measure_errors(step, X, options=nfad.Options(activations="int4", min_bytes=1024))
    assert report.changed and any(kept["error"] for kept in report.to_dict()["kept"])
    assert count.numpy() == 0
    for weight, value in zip(weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_activations_and_what_stays_exact(weights, count):
    report = nfad.measure_errors(
        step_of(tf.nn.gelu, weights, count),
        X,
        options=nfad.Options(activations="int8", min_bytes=1024),
    )
    found = errors_of(report, "int8")
    assert len(found) >= 4 and all(0.001 < error < 0.02 for error in found)
    assert set(errors_of(report, "exact")) <= {None}
    lines = []
    report.summary(lines.append)
    assert "int8 off by 0.0" in "\n".join(lines)


def test_rounding_at_random_loses_more(weights, count):
    step = step_of(tf.nn.gelu, weights, count)
    options = nfad.Options(activations="int4", min_bytes=1024)
    nearest, at_random = (
        np.mean(errors_of(nfad.measure_errors(step, X, options=o), "int4"))
        for o in (options, options.replace(rounding="stochastic"))
    )
    # By the root of two, and by what the steps are wider.
    assert 1.3 * nearest < at_random < 1.7 * nearest


def test_what_follows_from_outputs_is_as_close_as_promised(weights, count):
    options = nfad.Options(strategy="forward_ad", precision="inverse", min_bytes=1024)
    report = nfad.measure_errors(step_of(tf.nn.gelu, weights, count), X, options=options)
    found = errors_of(report, "inverse")
    # The bound is that of a single number, the largest of which is 1.1.
    assert len(found) == 4 and all(0 < error < 0.01 for error in found)


def test_variables_that_the_step_makes():
    def step(x):
        if not made:
            made.append(tf.Variable(numbers(WIDTH, WIDTH, scale=0.1)))
        with tf.GradientTape() as tape:
            for _ in range(4):
                x = tf.nn.gelu(x @ made[0])
            loss = tf.reduce_mean(x @ made[0])
        return tape.gradient(loss, made)

    made = []
    options = nfad.Options(activations="int8", min_bytes=1024)
    report = nfad.measure_errors(tf.function(step), numbers(2048, WIDTH), options=options)
    assert report.function_name == "step"
    assert errors_of(report, "int8")


def test_nothing_lossy_is_refused(weights, count):
    with pytest.raises(nfad.OptionsError, match="needs a precision or activations"):
        nfad.measure_errors(step_of(mish, weights, count), X, options=nfad.Options())


def test_a_step_that_stays_exact_has_no_errors():
    report = nfad.measure_errors(lambda x: x + 1, X, options=nfad.Options(activations="int8"))
    assert not report.changed and not errors_of(report, "int8")
