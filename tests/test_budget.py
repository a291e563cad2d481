"""A memory budget: what it takes is computed again, and nothing but time is lost."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras_training import check
from traced import assert_same, candidates_of, mish, numbers

import nested_fad_tf as nfad
from nested_fad_tf.plan.strategies import STRATEGIES

LAYERS, ROWS, WIDTH = 16, 4096, 256
OPTIONS = nfad.Options(on_error="raise", fuse="ops", min_bytes=1024)
WEIGHTS = [tf.Variable(numbers(WIDTH, WIDTH, seed=i, scale=0.08)) for i in range(LAYERS)]
X = numbers(ROWS, WIDTH, seed=99)
MIB = 2**20


def step(x):
    with tf.GradientTape() as tape:
        h = x
        for weight in WEIGHTS:
            h = tf.nn.gelu(h @ weight)
        loss = tf.reduce_sum(h * h)
    return loss, tape.gradient(loss, WEIGHTS)


@functools.cache
def report_of(budget):
    return nfad.explain(step, X, options=OPTIONS.replace(budget=budget))


@pytest.mark.parametrize(
    "budget", [0.15, *(pytest.param(b, marks=pytest.mark.slow) for b in ("48MiB", 32 * MIB))]
)
def test_a_step_keeps_to_its_budget(budget):
    plain = tf.function(step)
    rewritten = nfad.function(step, options=OPTIONS.replace(budget=budget))
    assert_same(rewritten(X), plain(X))
    (report,) = rewritten.reports
    limit = OPTIONS.replace(budget=budget).budget_bytes(report.predicted_peak_before)
    assert report.predicted_peak_after <= limit < report_of(None).predicted_peak_after
    assert "is met by running" in report.note and "of the forward pass again" in report.note
    # Near the least that there is, two ops that happen to run at once (4 MiB) are an eighth of it.
    chance = 4 * MIB if limit < 36 * MIB else 0
    assert nfad.measure(rewritten, X, runs=3).peak_range[0] <= limit + chance
    assert nfad.measure(plain, X, runs=1).peak_bytes > 3 * limit


def test_less_memory_takes_more_work():
    reports = [report_of(budget) for budget in (None, "50MiB", "40MiB", 1)]
    peaks = [r.predicted_peak_after for r in reports]
    assert peaks == sorted(peaks, reverse=True)
    # Where the plan without a budget is not enough: that one spends time to keep less, too.
    seconds = [r.predicted_seconds_again for r in reports[1:]]
    assert seconds == sorted(seconds)
    assert peaks[-1] < 0.7 * peaks[0]


def test_what_is_enough_without_is_left_to_the_cut():
    report = report_of(0.9)
    assert report.note.endswith("is met by recomputing element-wise ops alone")
    assert report.predicted_peak_after == report_of(None).predicted_peak_after
    assert not report_of(None).note


def test_a_budget_that_nothing_meets(caplog):
    rewritten = nfad.function(step, options=OPTIONS.replace(budget=1))
    with caplog.at_level("WARNING", logger="absl"):
        rewritten.get_concrete_function(X)
    (report,) = rewritten.reports
    assert "is not met: the least that was found is" in report.note
    assert "are alive" in report.note and "Gelu" in report.note
    assert report.note in caplog.text
    assert (
        report.changed and report.predicted_peak_after < 0.7 * report_of(None).predicted_peak_after
    )
    lines = []
    report.summary(lines.append)
    assert report.note.split(":")[0] in " ".join(lines)
    assert max(map(len, lines)) <= 100


def test_where_nothing_is_found_the_least_is_what_tensorflow_needs():
    def chain(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = mish(mish(x))
        return tape.gradient(y, x)

    report = nfad.explain(chain, X, options=OPTIONS.replace(budget=0.1))
    assert not report.changed
    peak = report.predicted_peak_before / MIB
    assert f"the least that was found is {peak:.1f} MiB" in report.note


def test_checkpoints_are_named():
    whys = {kept.why for kept in report_of("40MiB").kept}
    assert any(why.startswith("a checkpoint:") for why in whys)


def test_random_numbers_and_collectives_run_once():
    """Whatever is recomputed, each op that has effects or draws numbers is one op as before."""

    def dropped(x):
        with tf.GradientTape() as tape:
            h = x
            for weight in WEIGHTS:
                h = tf.nn.dropout(tf.nn.gelu(h @ weight), 0.1)
            loss = tf.reduce_sum(h)
        return tape.gradient(loss, WEIGHTS)

    candidates = candidates_of(dropped, X)
    plan = STRATEGIES["auto"](candidates, OPTIONS.replace(budget=1))
    copied = {node.op_type for node in plan.rewrite.nodes}
    assert "MatMul" in copied
    assert not copied & {"RandomUniform", "StatelessRandomUniformV2"}
    assert not any(node.origin.stateful for node in plan.rewrite.nodes)


def test_the_time_of_products_that_run_again():
    def with_einsum(x):
        with tf.GradientTape() as tape:
            h = x
            for weight in WEIGHTS:
                h = tf.nn.gelu(tf.einsum("nj,jk->nk", h, weight))
            loss = tf.reduce_sum(h * h)
        return loss, tape.gradient(loss, WEIGHTS)

    reports = [
        nfad.explain(f, X, options=OPTIONS.replace(budget=0.15)) for f in (step, with_einsum)
    ]
    seconds = [report.predicted_seconds_again for report in reports]
    np.testing.assert_allclose(seconds[1], seconds[0], rtol=0.3)


def test_whole_models():
    """Convolutions, normalisations whose averages move, pooling, attention: by `fit`."""

    def model():
        inputs = x = keras.Input([64])
        x = keras.layers.Reshape([8, 8, 1])(x)
        for _ in range(3):
            y = keras.layers.Conv2D(16, 3, padding="same", use_bias=False)(x)
            y = keras.layers.BatchNormalization()(y)
            x = keras.layers.Activation("gelu")(y)
            x = keras.layers.DepthwiseConv2D(3, padding="same", activation="silu")(x)
        x = keras.layers.MaxPooling2D()(x)
        x = keras.layers.Reshape([16, 16])(x)
        for _ in range(2):
            y = keras.layers.LayerNormalization()(x)
            attention = keras.layers.MultiHeadAttention(2, 8, dropout=0.1, use_bias=False)
            x = x + attention(y, y)
            x = x + keras.layers.Dense(16, "gelu")(keras.layers.LayerNormalization()(x))
        return keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Flatten()(x)))

    options = OPTIONS.replace(budget=1)  # as little as can be
    # By plain gradient descent, and no biases before a normalisation: their gradients are zero but
    # for rounding, and Adam makes steps of those.
    descent = lambda: {"optimizer": keras.optimizers.SGD(0.001)}  # noqa: E731
    trained = check(model, descent, options=options, rtol=1e-4)
    reports = nfad.keras.reports(trained)
    checkpoints = [k for report in reports for k in report.kept if "a checkpoint" in k.why]
    assert checkpoints


def test_compiled_as_a_whole():
    options = OPTIONS.replace(budget=0.2)
    plain = tf.function(step, jit_compile=True)
    rewritten = nfad.function(step, options=options, jit_compile=True)
    assert_same(rewritten(X), plain(X), 1e-4)
    assert "of the forward pass again" in rewritten.reports[-1].note
    unlimited = nfad.function(step, options=OPTIONS, jit_compile=True)
    before, after = (nfad.measure(f, X, runs=2).peak_bytes for f in (unlimited, rewritten))
    assert after < 0.9 * before


def test_compiled_groups():
    options = OPTIONS.replace(budget=0.2, fuse="xla")
    rewritten = nfad.function(step, options=options)
    assert_same(rewritten(X), tf.function(step)(X), 1e-4)
    assert np.isfinite(float(rewritten(X)[0]))
    assert "of the forward pass again" in rewritten.reports[-1].note


@pytest.fixture(scope="module")
def found():
    return nfad.budgets(step, X, options=OPTIONS)


def test_in_the_table_less_memory_takes_more_time(found):
    unlimited, *points = found.points
    assert unlimited.budget is None
    assert len(points) > 1
    peaks = [point.peak for point in points]
    assert peaks == sorted(set(peaks), reverse=True)
    assert found.plain_peak > unlimited.peak > peaks[0]
    seconds = [point.seconds_again for point in points]
    assert seconds == sorted(seconds)
    assert all(point.peak <= point.budget for point in points)
    assert all("of the forward pass again" in point.how for point in points)


def test_a_budget_of_the_table_gives_what_it_says(found):
    for point in found.points[:2]:
        report = report_of(point.budget)
        assert report.predicted_peak_before == found.plain_peak
        assert report.predicted_peak_after == point.peak
        assert report.predicted_seconds_again == point.seconds_again


def test_the_table_fits_and_names_what_stands_in_the_way(found):
    lines = []
    found.summary(lines.append)
    assert max(map(len, lines)) <= 100
    text = " ".join(" ".join(lines).split())
    assert "step: plain TensorFlow is predicted to need" in text
    assert "less: the least that was found is" in text and "are alive" in text
    assert all(point.how in text for point in found.points)


def test_a_function_without_a_backward_pass_says_so():
    found = nfad.budgets(lambda x: tf.nn.gelu(x @ WEIGHTS[0]), X, options=OPTIONS)
    assert not found.points
    assert found.obstacle
    lines = []
    found.summary(lines.append)
    assert found.obstacle.split()[0] in " ".join(lines)


def test_a_step_in_which_nothing_can_be_saved():
    def small(w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            loss = tf.reduce_sum(w * w)
        return tape.gradient(loss, w)

    found = nfad.budgets(small, X, options=OPTIONS)
    assert [point.budget for point in found.points] == [None]
    assert found.obstacle


def test_a_strategy_that_keeps_to_no_budget_is_refused():
    with pytest.raises(nfad.OptionsError, match="forward_ad"):
        nfad.budgets(step, X, options=OPTIONS.replace(strategy="forward_ad"))
