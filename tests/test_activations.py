"""Activations in fewer bits: the same loss, approximate gradients, far less memory."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from perceptrons import (
    ACTIVATIONS,
    BATCH,
    DEPTH,
    LOSSY,
    UNIT,
    WIDTH,
    arguments,
    relative_error,
    step_of,
)
from traced import mish, numbers

import nested_fad_tf as nfad
from nested_fad_tf.plan import lossy

# Largest error of the gradient as a part of its norm.
ERROR = {"bfloat16": 0.005, "int8": 0.02, "int4": 0.2, "int2": 0.9}
# Kept for each activation at most, in tensors of its size; plain TensorFlow keeps 2 to 5.
KEPT = {"bfloat16": 0.7, "int8": 0.45, "int4": 0.45, "int2": 0.35}


def options_of(activations, **changes):
    chosen = nfad.Options(activations=activations, min_bytes=4096, on_error="raise")
    return chosen.replace(**changes)


def formats_of(report):
    return {kept.format for kept in report.kept}


@pytest.mark.parametrize("precision", LOSSY)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_loss_is_the_same_and_gradients_are_close(name, precision):
    step, args = step_of(ACTIVATIONS[name]), arguments()
    options = options_of(precision, fuse="ops", tradeoff=0.0)
    rewritten = nfad.function(step, options=options)
    loss, gradients = rewritten(*args)
    plain_loss, plain = tf.function(step)(*args)
    assert loss == plain_loss
    assert 0 < relative_error(gradients, plain) < ERROR[precision]
    report = rewritten.reports[-1]
    assert precision in formats_of(report)
    assert report.kept_bytes_after < KEPT[precision] * DEPTH * UNIT


@pytest.mark.parametrize("strategy", ["auto", pytest.param("recompute", marks=pytest.mark.slow)])
def test_less_memory_is_measured(strategy):
    step, (x, *weights) = step_of(tf.nn.gelu), arguments()
    args = [tf.tile(x, [8, 1]), *weights, *weights]
    peaks = []
    for options in (options_of("exact"), options_of("int8", strategy=strategy)):
        rewritten = nfad.function(step, options=options)
        peaks.append(nfad.measure(rewritten, *args, runs=1).peak_bytes)
    assert peaks[1] < 0.6 * peaks[0]


@pytest.mark.parametrize("dtype", [tf.float64, tf.bfloat16])
def test_other_dtypes(dtype):
    step, args = step_of(tf.nn.gelu), arguments(dtype=dtype)
    rewritten = nfad.function(step, options=options_of("int4"))
    loss, gradients = rewritten(*args)
    plain_loss, plain = tf.function(step)(*args)
    np.testing.assert_allclose(
        np.asarray(loss, np.float64), np.asarray(plain_loss, np.float64), rtol=1e-2
    )
    assert relative_error(gradients, plain) < ERROR["int4"]
    assert "int4" in formats_of(rewritten.reports[-1])


def test_a_batch_of_unknown_size():
    step, (x, *weights) = step_of(tf.nn.gelu), arguments()
    signature = [tf.TensorSpec([None, WIDTH]), *[tf.TensorSpec([WIDTH, WIDTH])] * DEPTH]
    options = options_of("int4", nominal_size=BATCH)
    rewritten = nfad.function(step, input_signature=signature, options=options)
    for batch in (BATCH, 77):
        loss, gradients = rewritten(x[:batch], *weights)
        plain_loss, plain = tf.function(step)(x[:batch], *weights)
        np.testing.assert_allclose(loss, plain_loss, rtol=1e-5)
        assert relative_error(gradients, plain) < 1.2 * ERROR["int4"]  # fewer rows, less of a mean
    assert "int4" in formats_of(rewritten.reports[-1])


def network(x, kernels):
    """Convolutions; behind them, element-wise ops whose derivatives are steps, and nothing else."""
    for index, kernel in enumerate(kernels):
        x = tf.nn.conv2d(x, kernel, 1, "SAME")
        x = [tf.nn.relu, tf.nn.leaky_relu, tf.nn.relu6, tf.abs][index % 4](x)
        x = tf.where(x > 0.3, x, 0.1 * x)
        x = tf.nn.max_pool2d(x, 2, 2, "SAME") if index == 1 else tf.maximum(x, 0.05)
    return x


@pytest.mark.parametrize("channels", [16, 3])  # masks of 3 * 15 * 15 booleans aren't packed
def test_what_jumps_is_exact(channels):
    """The gradient of the input is made of steps and kernels, those of kernels of activations."""
    x = numbers(3, 15, 15, channels)
    kernels = [numbers(3, 3, channels, channels, seed=i, scale=0.2) for i in range(4)]

    def step(x, *kernels):
        with tf.GradientTape() as tape:
            tape.watch([x, *kernels])
            loss = tf.reduce_mean(network(x, kernels))
        return loss, tape.gradient(loss, [x, *kernels])

    options = options_of("int8", min_bytes=1024)
    rewritten = nfad.function(step, options=options)
    loss, (of_input, *of_kernels) = rewritten(x, *kernels)
    plain_loss, (plain_of_input, *plain_of_kernels) = tf.function(step)(x, *kernels)
    assert loss == plain_loss
    assert relative_error([of_input], [plain_of_input]) < 1e-6
    assert 0 < relative_error(of_kernels, plain_of_kernels) < ERROR["int8"]
    assert "int8" in formats_of(rewritten.reports[-1])


def test_relu_needs_no_more_than_bits():
    step, args = step_of(tf.nn.relu), arguments()
    rewritten = nfad.function(step, options=options_of("int8"))
    loss, gradients = rewritten(*args)
    plain_loss, plain = tf.function(step)(*args)
    assert loss == plain_loss
    assert relative_error(gradients, plain) < ERROR["int8"]
    report = rewritten.reports[-1]
    bits = [kept for kept in report.kept if kept.format == "bits"]
    # What the last layer gives is multiplied with the seed: it stays exact, and needs no bits.
    assert [kept.bytes for kept in bits] == [BATCH * WIDTH // 8] * (DEPTH - 1)
    assert formats_of(report) == {"bits", "int8", "exact"}
    assert report.kept_bytes_after < 0.45 * report.kept_bytes_before


def model_of(activation):
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [
            tf.keras.Input((16, 16, 8)),
            layers.Conv2D(32, 3, padding="same", activation=activation),
            layers.BatchNormalization(),
            layers.Dropout(0.2),
            layers.Conv2D(32, 3, padding="same", activation=activation),
            layers.LayerNormalization(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4),
        ]
    )


def test_losses_and_moving_averages_are_what_they_were():
    """With a learning rate of 0: all that a step gives or changes but gradients."""
    x, y = numbers(64, 16, 16, 8), np.arange(64) % 4
    results = []
    for options in (None, options_of("int2")):
        tf.keras.utils.set_random_seed(0)
        model = model_of("silu")
        loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(tf.keras.optimizers.SGD(0.0), loss)
        if options is not None:
            nfad.keras.optimize(model, options)
        history = model.fit(x, y, batch_size=32, epochs=2, shuffle=False, verbose=0)
        results.append((history.history["loss"], [w.numpy() for w in model.weights]))
    (plain_losses, plain), (losses, weights) = results
    np.testing.assert_allclose(losses, plain_losses, rtol=1e-6)
    for weight, expected in zip(weights, plain, strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=1e-6)
    assert any("int2" in formats_of(report) for report in nfad.keras.reports(model))


@pytest.mark.parametrize("precision", [pytest.param("int8", marks=pytest.mark.slow), "int4"])
def test_fit_trains(precision):
    x, y = numbers(256, 16, 16, 8).numpy(), np.arange(256) % 4
    x += 0.3 * y[:, None, None, None]
    tf.keras.utils.set_random_seed(0)
    model = model_of("gelu")
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    with nfad.rewriting(options_of(precision, nominal_size=64)) as session:
        history = model.fit(x, y, batch_size=64, epochs=5, verbose=0).history["loss"]
    assert np.isfinite(history).all()
    assert history[-1] < 0.7 * history[0]
    assert any(precision in formats_of(report) for report in session.reports)


def test_nothing_is_lost_for_a_budget_that_an_exact_plan_is_within():
    step, args = step_of(mish), arguments()
    exactly = nfad.explain(step, *args, options=options_of("exact"))
    loose = nfad.explain(step, *args, options=options_of("int8", budget=0.9))
    assert formats_of(loose) == {"exact"}
    assert loose.predicted_peak_after == exactly.predicted_peak_after
    assert "is met by" in loose.note and "activations='int8' unused" in loose.note


def test_a_budget_is_met_by_fewer_bits_before_products_run_again():
    step, args = step_of(mish), arguments()
    narrow = nfad.explain(step, *args, options=options_of("int8"))
    options = options_of("int8", budget=1.1 * narrow.predicted_peak_after // 1)
    report = nfad.explain(step, *args, options=options)
    assert "int8" in formats_of(report)
    assert report.predicted_peak_after == narrow.predicted_peak_after
    least = nfad.explain(step, *args, options=options_of("int8", budget=1))
    assert "is not met" in least.note
    assert least.predicted_peak_after <= narrow.predicted_peak_after


def test_a_budget_recomputes_nothing_that_has_to_be_exact(monkeypatch):
    """The gradient of a max-pooling looks for the maximum, and passes to nothing else."""
    monkeypatch.setattr(lossy, "_is_better", lambda *_: True)
    x = numbers(4, 32, 32, 16)
    kernels = [numbers(3, 3, 16, 16, seed=i, scale=0.1) for i in range(6)]

    def step(x, *kernels):
        with tf.GradientTape() as tape:
            tape.watch([x, *kernels])
            y = x
            for kernel in kernels:
                y = tf.nn.conv2d(tf.nn.conv2d(y, kernel, 1, "SAME"), kernel, 1, "SAME")
                y = tf.nn.gelu(tf.nn.max_pool2d(y, 2, 1, "SAME"))
            loss = tf.reduce_mean(y)
        return loss, tape.gradient(loss, [x, *kernels])

    options = options_of("int4", budget=1, min_bytes=1024)
    rewritten = nfad.function(step, options=options)
    loss, (of_input, *of_kernels) = rewritten(x, *kernels)
    plain_loss, (plain_of_input, *plain_of_kernels) = tf.function(step)(x, *kernels)
    np.testing.assert_allclose(loss, plain_loss, rtol=1e-6)
    assert relative_error([of_input], [plain_of_input]) < ERROR["int4"]
    assert relative_error(of_kernels, plain_of_kernels) < ERROR["int4"]
    (report,) = rewritten.reports
    assert "of the forward pass again" in report.note or "is not met" in report.note
    assert "int4" in formats_of(report)


def test_both_kinds_of_loss_together_take_the_lower_peak():
    step, args = step_of(mish), arguments()
    report = nfad.explain(step, *args, options=options_of("int8", precision="int4"))
    alone = nfad.explain(step, *args, options=options_of("int8"))
    assert report.predicted_peak_after == alone.predicted_peak_after
    assert "with derivatives in int4" in report.note
    assert "with activations in int8" in report.note


def test_what_may_be_off_is_said():
    step, args = step_of(mish), arguments()
    report = nfad.explain(step, *args, options=options_of("int8"))
    narrow = [kept for kept in report.kept if kept.format == "int8"]
    assert narrow
    assert all("kept as int8, lossy" in kept.why for kept in narrow)
    rows = BATCH * WIDTH // 256
    assert {kept.bytes for kept in narrow} == {BATCH * WIDTH + 8 * rows}


def test_a_function_compiled_as_a_whole_stays_exact():
    step, args = step_of(mish), arguments()
    rewritten = nfad.function(step, options=options_of("int8"), jit_compile=True)
    gradients = rewritten(*args)[1]
    assert relative_error(gradients, tf.function(step)(*args)[1]) < 1e-4
    report = rewritten.reports[-1]
    assert formats_of(report) <= {"exact", "bits"}
    assert "jit_compile=True" in report.note


def test_what_is_differentiated_from_outside_stays_exact():
    w, x = arguments()[1], numbers(BATCH, WIDTH)
    rewritten = nfad.function(lambda x: mish(mish(x @ w) @ w) @ w, options=options_of("int4"))
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_mean(rewritten(x) ** 2)
    tape.gradient(loss, x)
    report = rewritten.reports[-1]
    assert report.changed
    assert "differentiated from outside" in report.note
    assert formats_of(report) == {"exact"}


def test_options_that_make_no_sense_together():
    with pytest.raises(nfad.OptionsError, match="'forward_ad' keeps activations as they are"):
        nfad.Options(strategy="forward_ad", activations="int8")
    with pytest.raises(nfad.OptionsError, match="activations='int8': gradients differ"):
        nfad.Options(activations="int8", verify=True)
    with pytest.raises(nfad.OptionsError, match="did you mean 'int8'"):
        nfad.Options(activations="int")
    with pytest.raises(nfad.OptionsError, match="rtol="):
        nfad.testing.assert_same_step(step_of(mish), *arguments(), options=options_of("int8"))
