"""Lossy precisions: the same loss, approximate gradients, less memory."""

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
    error_and_cosine,
    step_of,
)
from traced import mish, numbers

import nested_fad_tf as nfad
from nested_fad_tf import testing

# Largest error of the gradient as a part of its norm, and its cosine with the exact one.
PRECISIONS = [*LOSSY, "inverse"]
ERROR = {"bfloat16": 0.004, "int8": 0.01, "int4": 0.1, "int2": 0.7, "inverse": 0.01}
COSINE = {"bfloat16": 0.9999, "int8": 0.9999, "int4": 0.99, "int2": 0.8, "inverse": 0.9999}
# Kept tensors per activation: its output, and its derivative.
KEPT = {"bfloat16": 1.55, "int8": 1.3, "int4": 1.17, "int2": 1.1, "inverse": 1.05}


@pytest.fixture
def as_written():
    """No silu in one op: TensorFlow's optimizer makes one for oneDNN, with another rounding."""
    tf.config.optimizer.set_experimental_options({"remapping": False})
    yield
    tf.config.optimizer.set_experimental_options({"remapping": True})


def options_of(precision, **changes):
    return nfad.Options(
        strategy="forward_ad", precision=precision, min_bytes=4096, on_error="raise"
    ).replace(**changes)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.usefixtures("as_written")
def test_the_loss_is_the_same_and_gradients_are_close(name, precision):
    step, args = step_of(ACTIVATIONS[name]), arguments()
    rewritten = nfad.function(step, options=options_of(precision, fuse="ops"))
    loss, gradients = rewritten(*args)
    expected, exact = tf.function(step)(*args)
    assert loss.numpy() == expected.numpy()
    error, cosine = error_and_cosine(gradients, exact)
    assert 0 < error < ERROR[precision]
    assert cosine > COSINE[precision]
    (report,) = rewritten.reports
    assert report.changed
    narrow = [kept for kept in report.kept if kept.format == precision]
    assert len(narrow) == DEPTH
    assert all(f"(kept as {precision}, lossy" in kept.why for kept in narrow)
    assert report.kept_bytes_after / UNIT / DEPTH < KEPT[precision]
    assert f"{DEPTH} {precision}" in report.note
    lines: list[str] = []
    report.summary(lines.append)
    assert any(report.note in line for line in lines)
    exactly = nfad.explain(step, *args, options=options_of("exact", fuse="ops"))
    assert report.predicted_peak_after < exactly.predicted_peak_after


def test_compiled_groups_compute_the_same_loss_as_with_exact_derivatives():
    step, args = step_of(tf.nn.gelu), arguments(batch=4096)
    exact = nfad.function(step, options=options_of("exact"))
    lossy = nfad.function(step, options=options_of("int4"))
    assert lossy(*args)[0].numpy() == exact(*args)[0].numpy()
    assert lossy.reports[-1].changed
    operations = lossy.get_concrete_function(*args).graph.get_operations()
    assert any(op.type == "PartitionedCall" for op in operations)


@pytest.mark.parametrize(
    "name", ["gelu", *(pytest.param(n, marks=pytest.mark.slow) for n in ("mish", "silu"))]
)
def test_less_memory_is_measured(name):
    step, args = step_of(ACTIVATIONS[name]), arguments(batch=2048)
    peaks = {
        precision: nfad.measure(
            nfad.function(step, options=options_of(precision)), *args, runs=1
        ).peak_bytes
        for precision in ("exact", "int4", "inverse")
    }
    assert peaks["int4"] < 0.9 * peaks["exact"]
    assert peaks["inverse"] < 0.9 * peaks["exact"]


@pytest.mark.parametrize("dtype", [tf.float64, tf.bfloat16, tf.float16])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_other_dtypes(dtype, precision):
    step, args = step_of(mish), arguments(batch=128, dtype=dtype)
    rewritten = nfad.function(step, options=options_of(precision))
    loss, gradients = rewritten(*args)
    expected, exact = tf.function(step)(*args)
    if rewritten.reports[-1].changed and dtype != tf.float64:
        assert loss.numpy() == expected.numpy()
    error, _ = error_and_cosine(gradients, exact)
    assert error < ERROR[precision] + (0 if dtype == tf.float64 else 0.05)
    narrow = {kept.format for kept in rewritten.reports[-1].kept} - {"exact"}
    # Half precision takes what bfloat16 takes; bfloat16 is too coarse to tell a derivative.
    none = precision == "bfloat16" and dtype != tf.float64
    none = none or (precision == "inverse" and dtype == tf.bfloat16)
    assert narrow == (set() if none else {precision})


@pytest.mark.parametrize("precision", ["int8", "int4", "inverse"])
def test_a_batch_of_unknown_size(precision):
    step, args = step_of(tf.nn.gelu), arguments()
    specs = [tf.TensorSpec([None, WIDTH]), *[tf.TensorSpec([WIDTH, WIDTH])] * DEPTH]
    rewritten = nfad.function(
        step, options=options_of(precision, nominal_size=BATCH), input_signature=specs
    )
    for batch in (BATCH, 3, 1):
        part = [args[0][:batch], *args[1:]]
        loss, gradients = rewritten(*part)
        expected, exact = tf.function(step)(*part)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
        assert error_and_cosine(gradients, exact)[0] < ERROR[precision]
    (report,) = rewritten.reports
    assert report.changed
    assert report.kept_bytes_after / UNIT / DEPTH < KEPT[precision]


def test_an_odd_width_is_kept_as_int8():
    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            y = x
            for _ in range(DEPTH):
                y = mish(y @ w)
            loss = tf.reduce_mean(y**2)
        return loss, tape.gradient(loss, w)

    x, w = numbers(BATCH, 255), numbers(255, 255, scale=255**-0.5)
    rewritten = nfad.function(step, options=options_of("int4"))
    gradient = rewritten(x, w)[1]
    assert error_and_cosine([gradient], [tf.function(step)(x, w)[1]])[0] < ERROR["int8"]
    formats = [kept.format for kept in rewritten.reports[-1].kept]
    # That of the last layer, on which the loss's own gradient depends, is read at once.
    assert formats.count("int8") == DEPTH - 1 and "int4" not in formats


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("special", [np.nan, np.inf])
def test_a_derivative_that_is_not_finite_is_noticed(precision, special):
    args = arguments()
    x = np.array(args[0])
    x[5, 7] = special
    rewritten = nfad.function(step_of(mish), options=options_of(precision))
    gradients = rewritten(x, *args[1:])[1]
    assert rewritten.reports[-1].changed
    assert not any(np.isfinite(g).all() for g in gradients)


def test_auto_takes_the_lower_peak_and_says_so():
    step, args = step_of(mish), arguments()
    options = options_of("int4", strategy="auto")
    report = nfad.explain(step, *args, options=options)
    peaks = {
        "exact": nfad.explain(step, *args, options=nfad.Options(min_bytes=4096)),
        "narrow": nfad.explain(step, *args, options=options.replace(strategy="forward_ad")),
    }
    exact, narrow = (peaks[k].predicted_peak_after for k in ("exact", "narrow"))
    assert report.strategy == "auto"
    assert report.predicted_peak_after <= 1.01 * min(exact, narrow)
    assert f"{narrow / 2**20:.1f} MiB with derivatives in int4" in report.note
    assert f"{exact / 2**20:.1f} MiB exact" in report.note
    lossy = any(kept.format == "int4" for kept in report.kept)
    assert lossy == ("unused" not in report.note)


def test_nothing_is_lost_for_a_budget_that_an_exact_plan_is_within():
    step, args = step_of(mish), arguments()
    options = options_of("int4", strategy="auto")
    exactly = nfad.explain(step, *args, options=options.replace(precision="exact"))
    loose = nfad.explain(step, *args, options=options.replace(budget=0.9))
    assert {kept.format for kept in loose.kept} == {"exact"}
    assert loose.predicted_peak_after == exactly.predicted_peak_after
    assert "is met by" in loose.note and "unused" in loose.note
    least = nfad.explain(step, *args, options=options.replace(budget=1))
    assert "is not met" in least.note
    assert least.predicted_peak_after < exactly.predicted_peak_after


@pytest.mark.parametrize("strategy", ["auto", "forward_ad"])
def test_a_function_compiled_as_a_whole_stays_exact(strategy):
    step, args = step_of(mish), arguments()
    options = options_of("int8", strategy=strategy)
    rewritten = nfad.function(step, options=options, jit_compile=True)
    gradients = rewritten(*args)[1]
    assert error_and_cosine(gradients, tf.function(step)(*args)[1])[0] < 1e-4
    report = rewritten.reports[-1]
    assert {kept.format for kept in report.kept} <= {"exact", "bits"}
    assert "jit_compile=True" in (report.note if strategy == "auto" else report.reason)


def test_what_is_differentiated_from_outside_stays_exact():
    _, w, *_ = arguments()
    x = numbers(BATCH, WIDTH)

    def call(x):
        return mish(mish(x @ w) @ w) @ w

    rewritten = nfad.function(call, options=options_of("int4"))
    gradients = []
    for function in (rewritten, tf.function(call)):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_mean(function(x) ** 2)
        gradients.append(tape.gradient(loss, x))
    np.testing.assert_allclose(*gradients, rtol=1e-3, atol=1e-9)
    report = rewritten.reports[-1]
    assert report.changed
    assert "differentiated from outside" in report.note
    assert {kept.format for kept in report.kept} == {"exact"}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_fit_trains(dropout):
    tf.keras.utils.set_random_seed(0)
    x, y = numbers(1024, 64), np.arange(1024) % 4
    layers = [tf.keras.Input((64,))]
    for activation in ("gelu", "mish", "silu"):
        layers += [tf.keras.layers.Dense(256, activation), tf.keras.layers.Dropout(dropout)]
        layers += [tf.keras.layers.LayerNormalization()]
    model = tf.keras.Sequential([*layers, tf.keras.layers.Dense(4)])
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    options = options_of("int4", nominal_size=256)
    with nfad.rewriting(options) as session:
        history = model.fit(x, y, batch_size=256, epochs=6, verbose=0).history["loss"]
    assert np.isfinite(history).all()
    assert history[-1] < 0.8 * history[0]
    step = max(session.reports, key=lambda report: report.kept_bytes_before)
    assert step.changed
    assert any(kept.format == "int4" for kept in step.kept)


def test_a_comparison_needs_a_tolerance():
    step, args = step_of(mish), arguments()
    with pytest.raises(nfad.OptionsError, match="rtol="):
        testing.assert_same_step(step, *args, options=options_of("int8"))
    report = testing.assert_same_step(step, *args, options=options_of("int8"), rtol=0.05)
    assert report.changed
    with pytest.raises(nfad.VerificationError):
        testing.assert_same_step(step, *args, options=options_of("int2"), rtol=1e-3)
