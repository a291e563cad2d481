"""Fused batch normalizations: what they give is computed again from what they are given."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf
from traced import assert_same, node, numbers, trace

import nested_fad_tf as nfad
from nested_fad_tf.graph import devices
from nested_fad_tf.graph.view import GraphView

CHANNELS, DEPTH, ROWS = 32, 3, 16
SHAPE = (ROWS, 8, 8, CHANNELS)
SIZE = 4 * ROWS * 8 * 8 * CHANNELS
# Bytes alone decide. The loss reads the result of one more convolution.
OPTIONS = nfad.Options(on_error="raise", strategy="recompute", fuse="ops", min_bytes=1024)
LEAST = DEPTH + 1


def mish(x):
    return x * tf.tanh(tf.nn.softplus(x))


class Net(tf.Module):
    """Convolutions, each normalized and put through an activation, with running averages."""

    def __init__(self, activation=mish, training=True, momentum=0.9, dtype=tf.float32):
        super().__init__()
        self.activation, self.training, self.momentum = activation, training, momentum
        self.dtype = dtype
        shape = (1, 1, CHANNELS, CHANNELS)
        self.filters = [
            tf.Variable(tf.cast(numbers(*shape, seed=i, scale=CHANNELS**-0.5), dtype))
            for i in range(DEPTH)
        ]
        self.scales = [tf.Variable(1 + 0.1 * numbers(CHANNELS, seed=9 + i)) for i in range(DEPTH)]
        self.offsets = [tf.Variable(0.1 * numbers(CHANNELS, seed=19 + i)) for i in range(DEPTH)]
        self.means = [tf.Variable(tf.zeros([CHANNELS]), trainable=False) for _ in range(DEPTH)]
        self.variances = [tf.Variable(tf.ones([CHANNELS]), trainable=False) for _ in range(DEPTH)]

    def __call__(self, x):
        layers = (self.filters, self.scales, self.offsets, self.means, self.variances)
        x = tf.cast(x, self.dtype)
        for filters, scale, offset, mean, variance in zip(*layers, strict=True):
            x = tf.nn.conv2d(x, filters, 1, "SAME")
            x, new_mean, new_variance = tf.compat.v1.nn.fused_batch_norm(
                x, scale, offset, mean, variance,
                is_training=self.training, exponential_avg_factor=1 - self.momentum,
            )  # fmt: skip
            if self.training:
                mean.assign(new_mean)
                variance.assign(new_variance)
            x = self.activation(x)
        return tf.nn.conv2d(x, self.filters[0], 1, "SAME")


def make_step(**kwargs):
    net = Net(**kwargs)

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_mean(tf.square(tf.cast(net(x), tf.float32)))
        return loss, tape.gradient(loss, [*net.trainable_variables, x])

    return step, net


def check(spec=None, options=OPTIONS, calls=2, jit_compile=None, rtol=1e-5, **kwargs):
    x = numbers(*SHAPE, seed=5)
    runs, signature = [], None if spec is None else [spec]
    for wrap in (tf.function, functools.partial(nfad.function, options=options)):
        step, net = make_step(**kwargs)
        function = wrap(step, input_signature=signature, jit_compile=jit_compile)
        results = [function(x) for _ in range(calls)]
        runs.append([results, [v.numpy() for v in net.variables]])
    assert_same(runs[1], runs[0], rtol)
    return function


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", [mish, tf.nn.relu])
@pytest.mark.parametrize("fuse", ["ops", "xla"])
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_a_step_keeps_the_results_of_convolutions_alone(training, activation, fuse, momentum):
    options = OPTIONS.replace(fuse=fuse)
    function = check(None, options, training=training, activation=activation, momentum=momentum)
    report = function.reports[-1]
    assert report.changed
    big = [kept for kept in report.kept if kept.bytes == SIZE]
    assert len(big) == LEAST and all(
        "Conv2D" in kept.name or kept.name.endswith("Mul:0") for kept in big
    )


@pytest.mark.parametrize("strategy", ["auto", "recompute"])
def test_a_batch_of_any_size(strategy):
    options = OPTIONS.replace(strategy=strategy)
    report = check(tf.TensorSpec((None, *SHAPE[1:])), options).reports[-1]
    assert report.changed and report.kept_bytes_after < 0.5 * report.kept_bytes_before


def test_a_compiled_step():
    report = check(jit_compile=True, rtol=1e-4).reports[-1]
    assert report.changed and report.kept_bytes_after <= 1.1 * LEAST * SIZE


def test_what_is_computed_again_is_exact_in_the_eyes_of_relu():
    """The formula and the kernel round alike up to a few units in the last place."""
    x = 3 + numbers(*SHAPE)
    scale, offset = 1 + numbers(CHANNELS, seed=1), numbers(CHANNELS, seed=2)
    y, _, _, mean, variance, _ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=scale, offset=offset, mean=[], variance=[], epsilon=1e-3
    )
    ours = (x - mean) * (tf.math.rsqrt(variance + 1e-3) * scale) + offset
    np.testing.assert_allclose(ours, y, rtol=0, atol=2e-6 * float(tf.reduce_max(abs(y))))


@pytest.mark.parametrize("kwargs", [{"dtype": tf.bfloat16}, {"dtype": tf.half}])
def test_half_precision_stays(kwargs):
    function = check(rtol=0.05, **kwargs)
    assert all(op.type != "Rsqrt" for op in function.get_concrete_function(
        tf.TensorSpec(SHAPE)).graph.get_operations())  # fmt: skip


def with_gpu(device):
    return "CPU" in device


@pytest.mark.parametrize("training", [True, False])
def test_where_it_may_run_on_a_gpu(training, monkeypatch):
    """There the reserve spaces hold other things; what is given means the same everywhere."""
    monkeypatch.setattr("nested_fad_tf.graph.view.on_cpu", with_gpu)
    report = check(training=training).reports[-1]
    kept = [kept for kept in report.kept if kept.bytes == SIZE]
    assert (len(kept) > LEAST) == training


def test_a_device_that_is_asked_for():
    assert devices.on_cpu("/job:worker/replica:0/task:1/device:CPU:0")
    assert not devices.on_cpu("/device:GPU:0")
    assert devices.on_cpu("") == (not tf.config.list_logical_devices("GPU"))
    assert devices.with_cpu("/job:worker/task:1") == "/job:worker/task:1/device:CPU:0"
    assert devices.with_cpu("/device:CPU:1") == "/device:CPU:1"


def test_ops_whose_reserve_spaces_are_read_stay_on_the_cpu():
    """A function may be saved, and loaded where there is a GPU."""
    step, _ = make_step()
    concrete = nfad.rewrite(step, tf.TensorSpec(SHAPE), options=OPTIONS).get_concrete_function(
        tf.TensorSpec(SHAPE)
    )
    fused = [op for op in concrete.graph.get_operations() if "FusedBatchNorm" in op.type]
    assert len(fused) == 2 * DEPTH
    assert all(op.device.endswith("/device:CPU:0") for op in fused)


def test_the_view_has_two_nodes_of_such_an_op():
    step, _ = make_step()
    graph = trace(step, tf.TensorSpec(SHAPE))
    view = GraphView.from_func_graph(graph)
    part = next(n for n in view.nodes if n.op_type == "FusedBatchNormV3.batch_y")
    whole = node(view, part.name)
    assert whole.op_type == "FusedBatchNormV3" and whole.op is part.op
    assert [v.index for v in whole.outputs] == [1, 2, 3, 4, 5]
    assert [v.index for v in part.outputs] == [0]
    assert [v.name for v in part.inputs[3:]] == [f"{whole.name}:3", f"{whole.name}:4"]
    assert view.op_count == len(graph.get_operations()) == len(view.nodes) - DEPTH


@pytest.mark.parametrize("training", [True, False])
def test_a_tape_around_a_function(training):
    x = numbers(*SHAPE, seed=5)
    runs = []
    for wrap in (tf.function, functools.partial(nfad.function, options=OPTIONS)):
        net = Net(training=training)
        function = wrap(net.__call__)
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                loss = tf.reduce_sum(tf.square(function(x)))
            slope = inner.gradient(loss, x)
            total = tf.reduce_sum(tf.square(slope))
        runs.append([loss, slope, outer.gradient(total, net.trainable_variables)])
    assert function.reports[-1].changed
    assert_same(runs[1], runs[0], 2e-5)
