from __future__ import annotations

import numpy as np
import pytest
import step_groups
import tensorflow as tf
from traced import mish, numbers

from nested_fad_tf.emit.fused_op import FusedOps
from nested_fad_tf.plan import groups

MATRIX = tf.TensorSpec([16, 16])


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr(groups, "_LEAST_SAVED", 0)


def call_all(step, *specs) -> tuple[FusedOps, int]:
    found, wiring = step_groups.find_all(step, *specs)
    ops = FusedOps(wiring, compiled=False)
    with tf.Graph().as_default():
        for group in found:
            ops.call(group, [tf.ones(v.shape, v.dtype) for v in group.inputs])
    return ops, len(found)


def test_equal_groups_share_a_function():
    def step(x, w):
        for _ in range(4):
            x = mish(x @ w)
        return x @ w

    ops, count = call_all(step, MATRIX, MATRIX)
    assert count == 4
    assert ops.distinct == 1


def test_every_call_is_like_the_first():
    def step(x, w):
        for _ in range(3):
            x = mish(x @ w)
        return x @ w

    found, wiring = step_groups.find_all(step, MATRIX, MATRIX)
    ops = FusedOps(wiring, compiled=False)
    with tf.Graph().as_default():
        arguments = [[tf.ones(v.shape, v.dtype) for v in group.inputs] for group in found]
        calls = [ops.call(group, a) for group, a in zip(found, arguments, strict=True)]
    first, *others = ([(t.op.type, t.shape, t.dtype) for t in outputs] for outputs in calls)
    assert first[0][1] == MATRIX.shape
    assert others == [first, first]
    attributes = [set(outputs[0].op.node_def.attr) - {"_class"} for outputs in calls]
    assert attributes[1:] == attributes[:1] * 2


@pytest.mark.parametrize(
    "activations",
    [
        (mish, lambda h: h * tf.sigmoid(h)),
        (lambda h: tf.exp(tf.tanh(h)), lambda h: tf.tanh(tf.exp(h))),
        (lambda h: tf.exp(h * 2.0), lambda h: tf.exp(h * 3.0)),
        (lambda h: tf.nn.leaky_relu(tf.exp(h), 0.1), lambda h: tf.nn.leaky_relu(tf.exp(h), 0.2)),
        (lambda h: tf.exp(h) - tf.tanh(h), lambda h: tf.tanh(h) - tf.exp(h)),
        (lambda h: tf.exp(1.0 - h), lambda h: tf.exp(h - 1.0)),
    ],
)
def test_groups_that_compute_something_else_do_not(activations):
    def step(x, w):
        for activation in activations:
            x = activation(x @ w)
        return x @ w

    ops, count = call_all(step, MATRIX, MATRIX)
    assert count == 2
    assert ops.distinct == 2


def test_other_shapes_and_dtypes_get_functions_of_their_own():
    def step(x, w, y, z):
        a = mish(x @ w) @ w, mish(y @ w) @ w
        return *a, mish(z @ z) @ z

    tall, double = tf.TensorSpec([32, 16]), tf.TensorSpec([16, 16], tf.float64)
    ops, count = call_all(step, MATRIX, MATRIX, tall, double)
    assert count == 3
    assert ops.distinct == 3


@pytest.mark.parametrize("compiled", [False, True])
def test_a_call_computes_what_its_ops_would(compiled):
    def step(x, w):
        h = x @ w
        a = tf.tanh(h * tf.exp(tf.constant(0.3)))
        b = tf.where(a > 0.1, a, h - 2.0)
        return a @ w, b @ w

    (group,), wiring = step_groups.find_all(step, MATRIX, MATRIX)
    h = numbers(16, 16)
    a = tf.tanh(h * tf.exp(0.3))
    ops = FusedOps(wiring, compiled)
    outputs = tf.function(lambda h: ops.call(group, [h]))(h)
    wanted = {"Tanh": a, "SelectV2": tf.where(a > 0.1, a, h - 2.0)}
    assert len(outputs) == 2
    for value, got in zip(group.outputs, outputs, strict=True):
        np.testing.assert_allclose(got, wanted[value.node.op_type], rtol=1e-5, atol=1e-6)


def test_a_call_can_be_differentiated_twice():
    (group,), wiring = step_groups.find_all(lambda x, w: mish(x @ w) @ w, MATRIX, MATRIX)
    ops = FusedOps(wiring, compiled=False)
    x = numbers(16, 16)

    def second(function):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = function(x)
            dx = inner.gradient(y, x)
        return dx, outer.gradient(dx, x)

    expected, actual = second(mish), second(tf.function(lambda x: ops.call(group, [x])[0]))
    for want, got in zip(expected, actual, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_functions_say_what_is_inside():
    (group,), wiring = step_groups.find_all(
        lambda x, w: tf.sin(mish(mish(x @ w))) @ w, MATRIX, MATRIX
    )
    ops = FusedOps(wiring, compiled=False)

    @tf.function
    def caller(x):
        return ops.call(group, [x])

    graph = caller.get_concrete_function(MATRIX).graph
    (call,) = [op for op in graph.get_operations() if "Call" in op.type]
    assert "nested_fad_Softplus_Tanh_Mul_Softplus_and_3_more" in call.get_attr("f").name


def test_unknown_dimensions_stay_known_as_far_as_they_were():
    (group,), wiring = step_groups.find_all(
        lambda x, w: mish(x @ w) @ w, tf.TensorSpec([None, 16]), MATRIX
    )
    ops = FusedOps(wiring, compiled=False)

    @tf.function(input_signature=[tf.TensorSpec([None, 16])])
    def caller(x):
        (y,) = ops.call(group, [x])
        assert y.shape.as_list() == [None, 16]
        return y

    np.testing.assert_allclose(caller(tf.ones([3, 16])), mish(tf.ones([3, 16])), rtol=1e-6)
    np.testing.assert_allclose(caller(tf.ones([5, 16])), mish(tf.ones([5, 16])), rtol=1e-6)
