"""Compiled groups give the bits that the graph would give without them."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import step_groups
import tensorflow as tf
from traced import numbers

import nested_fad_tf as nfad
from nested_fad_tf.emit import body
from nested_fad_tf.plan import groups


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr(groups, "_LEAST_SAVED", 0)
    monkeypatch.setattr(groups, "_LEAST_SAVED_BY_KIND", 0)


def kinds(step, *shapes) -> list[str]:
    specs = [tf.TensorSpec(shape) for shape in shapes]
    return [made.op_type for made in body.steps(*step_groups.find(step, *specs))]


def assert_same_bits(step, *shapes, dynamic: bool) -> None:
    """Checks a step's only group, compiled, against the step as TensorFlow runs it."""
    specs = [tf.TensorSpec((None, *s[1:]) if dynamic and len(s) > 1 else s) for s in shapes]
    args = [numbers(*shape, seed=i) for i, shape in enumerate(shapes)]
    found = step_groups.find(step, *specs)
    got = step_groups.call(*found, *args, inside={"Cumsum": tf.cumsum(args[0])})
    wanted = tf.function(lambda *args: step(*args), input_signature=specs)(*args)
    np.testing.assert_array_equal(got, wanted)


WIDE, ROW = (96, 64), (64,)

SUMS = {
    "shortcut": (lambda x, s, b: tf.nn.relu((x * s + b) + tf.cumsum(x)), (WIDE, ROW, ROW)),
    "two rows": (
        lambda x, s, b, t, c: (x * s + b) + (tf.cumsum(x) * t + c),
        (WIDE, ROW, ROW, ROW, ROW),
    ),
    "two of each": (lambda x, b, c: ((x + b) * tf.cumsum(x) + c) + x, (WIDE, ROW, ROW)),
    "four terms": (lambda x, b, c: ((x + x * 0.3) + tf.cumsum(x) * b) + x * c, (WIDE, ROW, ROW)),
    "read twice": (lambda x, b: (lambda h: (h + b) * h)(tf.cumsum(x) + x), (WIDE, ROW)),
    "differences": (lambda x, b: x * b - (tf.cumsum(x) - x * x), (WIDE, ROW)),
}


def test_added_at_once_are_terms_in_the_order_of_their_names():
    def step(b, a, c):
        return tf.add_n([c * c, b * a, a])

    assert_same_bits(step, WIDE, WIDE, WIDE, dynamic=False)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", SUMS)
def test_sums_are_those_of_the_graph_as_tensorflow_optimizes_it(name, dynamic):
    step, shapes = SUMS[name]
    assert_same_bits(step, *shapes, dynamic=dynamic)


@pytest.mark.parametrize("count", [9, 10, 12, 17, 18])
def test_many_terms_are_added_in_batches_as_by_the_kernel(count):
    def step(x):
        return tf.add_n([tf.abs(x * (i / 7 + 0.3)) for i in range(count)])

    assert_same_bits(step, WIDE, dynamic=False)


def test_a_bias_may_be_a_product_of_another_axis():
    def step(x):
        bias = tf.constant([0.1] * 8) * tf.constant(3.0)
        return tf.nn.bias_add(x * x, bias, "NCHW") * x

    assert_same_bits(step, (16, 8, 4, 6), dynamic=False)


def test_rows_are_added_before_what_they_are_broadcast_to():
    step, shapes = SUMS["two rows"]
    assert kinds(step, *shapes)[:5] == ["Mul", "Mul", "AddN", "AddN", "AddV2"]


def test_a_sum_that_others_read_too_stays_one():
    step, shapes = SUMS["read twice"]
    assert kinds(step, *shapes) == ["AddV2", "AddV2", "Mul"]


def test_a_sum_may_have_more_terms_than_calls_may_be_nested():
    def step(x):
        return functools.reduce(tf.add, [x * i for i in range(2, 1300)])

    made = kinds(step, (16, 16))
    assert made.count("AddN") == 1 + 1296 // 8
    assert made.count("IsNan") == made.count("Mul") == 1298


def test_a_product_may_be_added_to_itself():
    def step(x):
        square = x * x
        return square + square

    assert kinds(step, WIDE) == ["Mul", "AddV2", "IsNan", "SelectV2"]


def test_groups_with_approximations_are_written_as_they_are():
    assert kinds(lambda x, y: tf.tanh(x * y + y), WIDE, WIDE) == ["Mul", "AddV2", "Tanh"]


def test_sums_of_integers_are_written_as_they_are():
    def step(x):
        whole = tf.cast(x, tf.int32)
        return whole * whole + whole

    assert kinds(step, WIDE) == ["Cast", "Mul", "AddV2"]


def block(x, filters, stride):
    """A block of a residual network, with a convolution on its shortcut."""
    shortcut = keras.layers.Conv2D(filters, 1, stride)(x)
    shortcut = keras.layers.BatchNormalization()(shortcut)
    for size, step in ((filters // 2, stride), (filters, 1)):
        x = keras.layers.Conv2D(size, 3, step, padding="same")(x)
        x = keras.layers.BatchNormalization()(x)
        if size != filters:
            x = keras.layers.ReLU()(x)
    return keras.layers.ReLU()(keras.layers.Add()([shortcut, x]))


def test_a_residual_network_has_the_gradients_of_tensorflow_bit_by_bit():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((24, 24, 8), batch_size=16)
    for filters, stride in ((16, 1), (32, 2), (64, 2)):
        x = block(x, filters, stride)
    model = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x)))
    images, labels = numbers(16, 24, 24, 8), tf.range(16) % 10

    def gradients():
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        return loss, *tape.gradient(loss, model.trainable_variables)

    options = nfad.Options(fuse="xla", strategy="recompute", min_bytes=1024, on_error="raise")
    rewritten = nfad.function(gradients, options=options)
    for got, wanted in zip(rewritten(), tf.function(gradients)(), strict=True):
        np.testing.assert_array_equal(got, wanted)
    (report,) = rewritten.reports
    assert report.kept_bytes_after < 0.8 * report.kept_bytes_before
    library = rewritten.get_concrete_function().graph.as_graph_def().library.function
    assert any("nested_fad" in f.signature.name for f in library)
