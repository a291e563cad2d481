"""Loops as users write them: TensorArrays, early exit, loops in loops, branches, training loops."""

from __future__ import annotations

import pytest
import tensorflow as tf
from traced import assert_same, mish, numbers

import nested_fad_tf as nfad

STEPS, ROWS, WIDTH = 6, 32, 64
OPTIONS = nfad.Options(on_error="raise", fuse="ops", min_bytes=1024)
WEIGHTS = [tf.Variable(numbers(WIDTH, WIDTH, seed=i, scale=0.3)) for i in range(3)]
X = numbers(STEPS, ROWS, WIDTH, seed=3, scale=0.3)
TARGET = numbers(ROWS, WIDTH, seed=4)


def tensor_arrays(x):
    read, written = tf.TensorArray(tf.float32, STEPS).unstack(x), tf.TensorArray(tf.float32, STEPS)
    h = tf.zeros([ROWS, WIDTH])
    for t in tf.range(STEPS):
        h = mish(tf.matmul(read.read(t), WEIGHTS[0]) + h @ WEIGHTS[1])
        written = written.write(t, tf.nn.gelu(h))
    return tf.transpose(written.stack(), [1, 0, 2]) @ WEIGHTS[2]


def masked_tensor_array(x):
    """The mask comes from outside the loop, as that of a recurrent layer's dropout."""
    read, mask = tf.TensorArray(tf.float32, STEPS).unstack(mish(x)), tf.sigmoid(x[0])
    h = tf.zeros([ROWS, WIDTH])
    for t in tf.range(STEPS):
        h = mish(tf.matmul(mish(read.read(t)) * mask, WEIGHTS[0]) + h @ WEIGHTS[1])
    return h


def growing_tensor_array(x):
    written = tf.TensorArray(tf.float32, 0, dynamic_size=True, element_shape=[ROWS, WIDTH])
    h = x[0]
    while tf.logical_and(written.size() < 2 * STEPS, tf.reduce_mean(tf.abs(h)) > 0.01):
        h = mish(h @ WEIGHTS[0])
        written = written.write(written.size(), h)
    return tf.reduce_sum(written.stack(), 0)


def early_exit(x):
    h = x[0]
    for t in tf.range(STEPS):
        h = mish(h @ WEIGHTS[0]) * 1.5
        if tf.reduce_mean(tf.abs(h)) > 1.0:
            break
        if t % 2 == 0:
            continue
        h = tf.nn.gelu(h @ WEIGHTS[1])
    return h


def loops_in_loops(x):
    h = x[0]
    for t in tf.range(3):
        g = h
        for _ in tf.range(t + 1):
            g = mish(g @ WEIGHTS[0])
        h = h + mish(g @ WEIGHTS[1])
    return h


def switches(x):
    h = x[0]
    for t in range(3):
        branches = [
            lambda h=h: mish(h @ WEIGHTS[0]),
            lambda h=h: tf.nn.gelu(h @ WEIGHTS[1]),
            lambda h=h: tf.sigmoid(h) * h * mish(h @ WEIGHTS[2]),
        ]
        positive = tf.math.count_nonzero(h > 0.0, dtype=tf.int32)
        h = tf.switch_case((positive + t) % 3, branches)
    return h


def switches_in_a_loop(x):
    h = x[0]
    for t in tf.range(STEPS):
        branches = [
            lambda: mish(h @ WEIGHTS[0]),  # noqa: B023
            lambda: tf.nn.gelu(h @ WEIGHTS[1]),  # noqa: B023
            lambda: mish(tf.nn.gelu(h @ WEIGHTS[2])),  # noqa: B023
        ]
        h = tf.switch_case(t % 3, branches)
    return h


def carried_structure(x):
    """The loop carries a structure, and a part of it grows."""
    _, state = tf.while_loop(
        lambda i, s: i < STEPS,
        lambda i, s: (
            i + 1,
            {
                "h": mish(s["h"] @ WEIGHTS[0]),
                "all": tf.concat([s["all"], mish(s["h"] @ WEIGHTS[1])[None]], 0),
            },
        ),
        [0, {"h": x[0], "all": x[:1]}],
        shape_invariants=[
            tf.TensorShape([]),
            {"h": tf.TensorShape([ROWS, WIDTH]), "all": tf.TensorShape([None, ROWS, WIDTH])},
        ],
    )
    return tf.reduce_sum(state["all"], 0) + state["h"]


def gradients_of(function):
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_mean(tf.square(function(x)))
        return loss, tape.gradient(loss, [*WEIGHTS, x], unconnected_gradients="zero")

    return step


def plain_and_rewritten(step, x, options=OPTIONS):
    """What both give from the same weights, and the reports on the second."""
    before, results = [w.numpy() for w in WEIGHTS], []
    with nfad.rewriting(options) as session:
        rewritten = tf.function(step)
        rewritten.get_concrete_function(x)
    for function in (tf.function(step), rewritten):
        results.append([function(x), [w.numpy() for w in WEIGHTS]])
        for variable, value in zip(WEIGHTS, before, strict=True):
            variable.assign(value)
    return *results, session.reports


@pytest.mark.parametrize("strategy", ["auto", "forward_ad"])
@pytest.mark.parametrize(
    "function",
    [tensor_arrays, masked_tensor_array, growing_tensor_array, early_exit, loops_in_loops,
     switches, switches_in_a_loop, carried_structure],
)  # fmt: skip
def test_the_gradient_is_taken_outside(function, strategy):
    options = OPTIONS.replace(strategy=strategy)
    expected, actual, reports = plain_and_rewritten(gradients_of(function), X, options)
    assert_same(actual, expected)
    assert strategy == "forward_ad" or any(report.changed for report in reports)


def loss_of(x, i, weights):
    h = x[i % STEPS]
    for w in weights:
        h = mish(tf.nn.gelu(h @ w))
    return tf.reduce_mean(tf.square(h - TARGET))


def training_loop(x):
    """A whole training, in one `tf.while_loop` that carries the weights."""

    def body(i, _, *weights):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = loss_of(x, i, weights)
        slopes = tape.gradient(loss, weights)
        return (i + 1, loss, *[w - 0.1 * s for w, s in zip(weights, slopes, strict=True)])

    return tf.while_loop(lambda i, *_: i < 8, body, [0, tf.constant(0.0), *WEIGHTS])


def training_loop_of_variables(x):
    loss = tf.constant(0.0)
    for i in tf.range(8):
        with tf.GradientTape() as tape:
            loss = loss_of(x, i, WEIGHTS)
        slopes = tape.gradient(loss, WEIGHTS)
        for weight, slope in zip(WEIGHTS, slopes, strict=True):
            weight.assign_sub(0.1 * slope)
    return loss


def training_until_it_is_good(x):
    i, loss = tf.constant(0), tf.constant(10.0)
    while loss > 1.3 and i < 8:  # seven steps
        with tf.GradientTape() as tape:
            loss = loss_of(x, i, WEIGHTS)
        if tf.math.is_nan(loss):
            break
        slopes = tape.gradient(loss, WEIGHTS)
        for weight, slope in zip(WEIGHTS, slopes, strict=True):
            weight.assign_sub(0.1 * slope)
        i += 1
    return i, loss


def gradient_of_a_training(x):
    with tf.GradientTape() as tape:
        loss = training_loop(x)[1]
    return loss, tape.gradient(loss, WEIGHTS)


# With plain ops, "forward_ad" gains nothing here.
@pytest.mark.parametrize("strategy", ["auto", "recompute", "forward_ad"])
@pytest.mark.parametrize(
    "step",
    [training_loop, training_loop_of_variables, training_until_it_is_good, gradient_of_a_training],
)
def test_the_step_is_in_the_loop(step, strategy):
    options = OPTIONS.replace(strategy=strategy)
    expected, actual, reports = plain_and_rewritten(step, X, options)
    assert_same(actual, expected)
    assert strategy == "forward_ad" or any(report.changed for report in reports)


def test_the_gradient_of_a_loop_is_left_alone_and_says_so():
    scale = numbers(1, WIDTH, seed=5)

    def cells(x):
        h, every = x[0], tf.TensorArray(tf.float32, STEPS)
        for t in tf.range(STEPS):
            h = h @ WEIGHTS[0]
            mean, variance = tf.nn.moments(h, 1, keepdims=True)
            h = mish((h - mean) * tf.math.rsqrt(variance + 1e-3) * scale + 0.1)
            every = every.write(t, h)
        return every.stack()

    expected, actual, reports = plain_and_rewritten(gradients_of(cells), X)
    assert_same(actual, expected)
    bodies = {r.function_name: r for r in reports if "body" in r.function_name}
    (gradient,) = [report for name, report in bodies.items() if "_grad_" in name]
    assert not gradient.changed
    assert gradient.reason.startswith("the gradient of a loop:")
    assert any(report.changed for report in bodies.values())
