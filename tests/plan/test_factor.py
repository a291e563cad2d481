"""Factored regions against the gradients that they stand for."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import tensorflow as tf
from traced import mish, node, nodes, numbers

from nested_fad_tf.emit.expression import build
from nested_fad_tf.graph.nodes import Value
from nested_fad_tf.graph.roles import find_roles
from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.ops.expr import Leaf, leaves
from nested_fad_tf.plan.candidates import Candidates, find_candidates
from nested_fad_tf.plan.factor import Region, find_regions
from nested_fad_tf.plan.rewrite import Rewrite
from nested_fad_tf.plan.wiring import Wiring

MATRIX = tf.TensorSpec([16, 16])


def swish(x):
    return x * tf.sigmoid(x)


def exact_gelu(x):
    return 0.5 * x * (1.0 + tf.math.erf(x / math.sqrt(2.0)))


def layer_norm(x):
    centred = x - tf.reduce_mean(x, axis=1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), axis=1, keepdims=True)
    return centred * tf.math.rsqrt(variance + 1e-3)


tanh_gelu = functools.partial(tf.nn.gelu, approximate=True)


class Layer:
    """A step through x @ w -> activation -> @ v, and the regions of its backward pass."""

    def __init__(self, activation):
        self.activation = activation

        def step(x, w, v, u):
            with tf.GradientTape() as tape:
                tape.watch(w)
                loss = tf.reduce_sum((activation(x @ w) @ v) @ u)
            return tape.gradient(loss, w)

        specs = [MATRIX] * 4
        self.graph = tf.function(step).get_concrete_function(*specs).graph
        self.view = GraphView.from_func_graph(self.graph)
        self.candidates: Candidates = find_candidates(
            self.view, find_roles(self.view), 256, fused=False
        )
        self.regions: list[Region] = find_regions(self.candidates)
        self.arguments = [numbers(16, 16, seed=i, scale=0.5).numpy() for i in range(4)]

    def run(self, tensors):
        feed = {t.name: a for t, a in zip(self.graph.inputs, self.arguments, strict=True)}
        with tf.compat.v1.Session(graph=self.graph) as session:
            return session.run(tensors, feed)

    def tensor(self, value: Value) -> tf.Tensor:
        return value.node.op.outputs[value.index]

    def derivative(self, expr) -> tf.Tensor:
        with self.graph.as_default():
            keys = {v: self.tensor(v) for v in leaves(expr)}
            return build(expr, keys, dtype=tf.float32)


ACTIVATIONS = [
    tf.tanh, tf.sigmoid, tf.nn.relu, tf.nn.elu, tf.nn.selu, tf.nn.softplus, tf.nn.leaky_relu,
    tanh_gelu, exact_gelu, mish, swish, layer_norm, tf.math.sin,
    lambda x: tf.where(x > 0.1, tf.exp(x), 3.0 * x), lambda x: tf.pow(x, 3.0) - x,
    lambda x: tf.maximum(x, 0.2) * tf.minimum(x, 0.3),
]  # fmt: skip


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_leaves_a_region_is_linear_in_what_enters_it(activation):
    layer = Layer(activation)
    assert layer.regions
    for region in layer.regions:
        members = {n.id for n in region.nodes}
        for out, row in region.derivatives.items():
            assert out.node.id in members
            assert row
            terms = [(layer.tensor(u), layer.derivative(d)) for u, d in row.items()]
            actual, pairs = layer.run([layer.tensor(out), terms])
            expected = sum(u * d for u, d in pairs)
            scale = np.abs(actual).max()
            assert scale > 0
            np.testing.assert_allclose(actual, expected, rtol=0, atol=3e-6 * scale)


@pytest.mark.parametrize("activation", [tanh_gelu, exact_gelu, mish, swish, tf.tanh, tf.nn.elu])
def test_a_chain_becomes_one_product_with_its_derivative(activation):
    layer = Layer(activation)
    (region,) = layer.regions
    (row,) = [
        row
        for out, row in region.derivatives.items()
        if any(r.op_type == "MatMul" for r, _ in layer.view.consumers[out.id])
    ]
    ((entering, derivative),) = row.items()
    assert entering.node.op_type == "MatMul"
    first = nodes(layer.view, "MatMul")[0].outputs[0]
    h, factor = layer.run([layer.tensor(first), layer.derivative(derivative)])
    exact = tf.constant(h, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(exact)
        y = activation(exact)
    np.testing.assert_allclose(factor, tape.gradient(y, exact), rtol=0, atol=3e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_derivatives_are_of_forward_values(activation):
    layer = Layer(activation)
    cotangent = layer.candidates.roles.cotangent
    for region in layer.regions:
        assert all(cotangent[n.id] for n in region.nodes)
        for row in region.derivatives.values():
            assert all(cotangent[u.node.id] for u in row)
            for derivative in row.values():
                assert not any(cotangent[v.node.id] for v in leaves(derivative))


@pytest.mark.parametrize(
    ("activation", "op_type"),
    [
        (lambda x: tf.sqrt(tf.exp(x)), "SqrtGrad"),
        (lambda x: tf.math.rsqrt(tf.exp(x)), "RsqrtGrad"),
        (lambda x: tf.math.reciprocal(tf.exp(x)), "ReciprocalGrad"),
    ],
)
def test_ops_that_absorb_a_zero_gradient_belong_to_no_region(activation, op_type):
    layer = Layer(activation)
    absorbing = node(layer.view, op_type)
    assert layer.candidates.roles.cotangent[absorbing.id]
    assert layer.regions  # exp's gradient is in one
    assert all(absorbing not in region.nodes for region in layer.regions)


def with_offset(combine):
    """An activation whose custom gradient combines the cotangent with a forward value."""

    @tf.custom_gradient
    def activation(x):
        return tf.exp(x), lambda dy: combine(dy, x) * 2.0

    return activation


@pytest.mark.parametrize(
    ("combine", "op_type"),
    [
        (lambda dy, x: dy + x, "AddV2"),
        (lambda dy, x: x - dy, "Sub"),
        (lambda dy, x: dy - x, "Sub"),
        (lambda dy, x: tf.add_n([dy, x]), "AddN"),
        (lambda dy, x: tf.where(x > 0.0, dy, x), "SelectV2"),
        (lambda dy, x: tf.where(x > 0.0, dy, tf.ones_like(x)), "SelectV2"),
        (lambda dy, x: dy + 1.0, "AddV2"),
        (lambda dy, x: dy / (1.0 + dy), "RealDiv"),
        (lambda dy, x: x / dy, "RealDiv"),
        (lambda dy, x: dy * dy, "Mul"),
        (lambda dy, x: tf.where(dy > 0.0, dy, tf.zeros_like(dy)), "SelectV2"),
        (lambda dy, x: tf.clip_by_value(dy, -0.1, 0.1), "Minimum"),
    ],
)
def test_regions_hold_only_what_is_linear_in_the_cotangent(combine, op_type):
    layer = Layer(with_offset(combine))
    offending = [n for n in nodes(layer.view, op_type) if layer.candidates.roles.cotangent[n.id]]
    assert offending
    members = [n for region in layer.regions for n in region.nodes]
    assert not [n for n in offending if n in members and n.op_type != "Mul"]
    if op_type == "Mul":
        (square,) = [n for n in offending if n.inputs[0] is n.inputs[1]]
        assert square not in members


@pytest.mark.parametrize(
    "combine",
    [
        lambda dy, x: dy + tf.zeros_like(x),
        lambda dy, x: tf.where(x > 0.0, dy, tf.zeros_like(x)),
        lambda dy, x: dy - tf.zeros([16]),
        lambda dy, x: dy + dy,
    ],
)
def test_zero_offsets_do_no_harm(combine):
    layer = Layer(with_offset(combine))
    (region,) = layer.regions
    assert {n.op_type for n in region.nodes} & {"AddV2", "SelectV2", "Sub"}


def regions_of(step, *specs) -> tuple[GraphView, list[Region]]:
    view = GraphView.from_func_graph(tf.function(step).get_concrete_function(*specs).graph)
    return view, find_regions(find_candidates(view, find_roles(view), 256, fused=False))


def test_an_output_of_a_region_depends_on_something():
    def step(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = mish(x)
        return tape.gradient(y, x, output_gradients=dy) @ dy

    _, regions = regions_of(step, MATRIX, MATRIX)
    rows = [row for region in regions for row in region.derivatives.values()]
    assert rows
    assert all(rows)


def test_there_are_no_derivatives_for_what_nobody_reads():
    layer = Layer(exact_gelu)
    (region,) = layer.regions
    live = Wiring(layer.view, Rewrite()).live
    for out in region.derivatives:
        assert any(live[r.id] for r, _ in layer.view.consumers[out.id]), out


def test_a_linear_chain_has_a_derivative_of_leaves_or_numbers():
    layer = Layer(lambda x: 3.0 * x)
    (region,) = layer.regions
    ((_, row),) = region.derivatives.items()
    (derivative,) = row.values()
    assert isinstance(derivative, Leaf)
    np.testing.assert_array_equal(layer.view.constant(derivative.key), 3.0)


def test_without_cotangents_there_are_no_regions():
    _, regions = regions_of(mish, MATRIX)
    assert regions == []
