from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import tensorflow as tf
from traced import SIZE, SQUARE, candidates_of, layers, mish, names, numbers

import nested_fad_tf as nfad
from nested_fad_tf.plan import forward_ad, groups
from nested_fad_tf.plan.plan import NOTHING_GAINED, Plan
from nested_fad_tf.plan.wiring import Wiring

OPTIONS = nfad.Options(strategy="forward_ad", fuse="xla", min_bytes=1024, on_error="raise")


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    """Derivatives are worth it when the op that makes them is fused with its neighbours."""
    monkeypatch.setattr(groups, "_LEAST_SAVED", 0)


def swish(x):
    return x * tf.sigmoid(x)


def exact_gelu(x):
    return 0.5 * x * (1.0 + tf.math.erf(x / math.sqrt(2.0)))


tanh_gelu = functools.partial(tf.nn.gelu, approximate=True)


def step_of(activation, depth=3):
    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            y = x
            for _ in range(depth):
                y = activation(y @ w)
            loss = tf.reduce_sum(y @ w)
        return tape.gradient(loss, w)

    return step


def plan_of(activation, depth=3) -> Plan:
    candidates = candidates_of(step_of(activation, depth), SQUARE, SQUARE, fused=True)
    return forward_ad.plan(candidates, OPTIONS)


def bytes_of(keeps) -> float:
    return sum(k.nbytes for k in keeps) / SIZE


@pytest.mark.parametrize(("activation", "before"), [(tanh_gelu, 5), (mish, 4), (swish, 3)])
def test_a_chain_keeps_its_output_and_its_derivative(activation, before):
    plan = plan_of(activation)
    assert plan.rewrite
    assert bytes_of(plan.kept_before) == 3 * before
    assert bytes_of(plan.kept_after) == 3 * 2
    derivatives = [k for k in plan.kept_after if "derivative" in k.why]
    assert len(derivatives) == 3
    assert plan.after.peak_bytes < plan.before.peak_bytes
    assert {d.action for d in plan.decisions} == {"keep derivatives"}


@pytest.mark.parametrize(
    "activation", [tf.nn.relu, tf.nn.elu, tf.nn.selu, tf.nn.relu6, tf.tanh, tf.sigmoid]
)
def test_activations_that_keep_their_output_alone_are_left_alone(activation):
    plan = plan_of(activation)
    assert not plan.rewrite
    assert plan.reason == NOTHING_GAINED
    assert plan.kept_after == plan.kept_before
    assert bytes_of(plan.kept_after) == 3
    assert plan.after is plan.before


@pytest.mark.parametrize(
    "activation",
    [
        tanh_gelu, exact_gelu, mish, swish, tf.nn.silu, tf.nn.softplus, tf.nn.leaky_relu,
        tf.math.sin, lambda x: mish(tf.nn.relu(x)), lambda x: tf.nn.relu(x) + tf.tanh(x),
        lambda x: tf.exp(-tf.square(x)) * tf.tanh(x), lambda x: x * x,
    ],
)  # fmt: skip
def test_no_more_is_kept_than_today(activation):
    plan = plan_of(activation)
    assert bytes_of(plan.kept_after) <= bytes_of(plan.kept_before)
    assert plan.after.peak_bytes <= plan.before.peak_bytes


def test_relu_is_left_alone_beside_what_gains():
    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            y = x
            for _ in range(3):
                y = mish(tf.nn.relu(y @ w) @ w)
            loss = tf.reduce_sum(y @ w)
        return tape.gradient(loss, w)

    plan = forward_ad.plan(candidates_of(step, SQUARE, SQUARE, fused=True), OPTIONS)
    assert plan.rewrite
    actions = {tuple(n.op_type for n in d.chain.nodes): d.action for d in plan.decisions}
    assert actions == {("Relu",): "left alone", ("Softplus", "Tanh", "Mul"): "keep derivatives"}
    relu = [k for k in plan.kept_after if k.value.node.op_type == "Relu"]
    assert len(relu) == 3
    assert all("derivative" not in k.why for k in relu)


def test_nothing_is_recomputed():
    """No forward op runs twice, and derivatives don't wait for cotangents."""
    candidates = candidates_of(step_of(mish), SQUARE, SQUARE, fused=True)
    plan = forward_ad.plan(candidates, OPTIONS)
    wiring = Wiring(candidates.view, plan.rewrite)
    added = [n for n in plan.rewrite.nodes if wiring.live[n.id]]
    assert {n.op_type for n in added} <= {"Mul", "Sub", "AddV2", "Const", "Identity"}
    late = list(candidates.roles.cotangent)
    for n in plan.rewrite.nodes:
        late.append(any(late[v.node.id] for v in n.inputs))
    derivatives = [k.value for k in plan.kept_after if "derivative" in k.why]
    assert derivatives
    for value in derivatives:
        assert not late[value.node.id]
        assert not wiring.controls[value.node.id]


@pytest.mark.parametrize("activation", [mish, swish, exact_gelu, tanh_gelu])
@pytest.mark.parametrize("fuse", ["ops", "xla"])
def test_the_next_layer_waits_for_the_derivative(activation, fuse):
    """Else what derivatives are computed from may be kept beside them."""

    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            for _ in range(3):
                x = activation(x @ w)
            loss = tf.reduce_sum(x @ w)
        return loss, tape.gradient(loss, w)

    candidates = candidates_of(step, SQUARE, SQUARE, fused=fuse == "xla")
    plan = forward_ad.plan(candidates, OPTIONS.replace(fuse=fuse))
    at = {n.id: i for i, step in enumerate(plan.after.steps) for n in step.nodes}
    computed = [k.value.node for k in plan.kept_after if "derivative" in k.why]
    products = sorted(at[n.id] for n in candidates.view.nodes if n.name.startswith("matmul"))
    assert len(computed) == 3 and len(products) == 4
    gates = [n for n in plan.rewrite.nodes if n.op_type == "Identity"]
    for layer, node in enumerate(sorted(computed, key=lambda n: at[n.id])):
        assert sum(node in gate.controls for gate in gates) == 1
        assert products[layer] < at[node.id] < products[layer + 1]


def test_factors_tied_to_the_gradient_are_released():
    candidates = candidates_of(step_of(exact_gelu), SQUARE, SQUARE, fused=True)
    plan = forward_ad.plan(candidates, OPTIONS)
    released = [candidates.view.nodes[i] for i in plan.rewrite.released]
    assert released
    assert all(not candidates.roles.cotangent[n.id] and not n.stateful for n in released)


@pytest.mark.parametrize("activation", [tanh_gelu, exact_gelu, mish])
def test_gradients_are_the_same(activation):
    step = step_of(activation)
    x, w = numbers(128, 128), numbers(128, 128, scale=128**-0.5)
    rewritten = nfad.function(step, options=OPTIONS)
    expected, actual = tf.function(step)(x, w), rewritten(x, w)
    assert rewritten.reports[-1].changed
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-6 * scale)


def test_a_value_that_is_kept_anyway_pays_for_no_derivative():
    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            y = tf.tanh(x @ w)
            # The matrix product keeps the output; a derivative would come on top.
            loss = tf.reduce_sum((y @ w) @ w)
        return tape.gradient(loss, w)

    plan = forward_ad.plan(candidates_of(step, SQUARE, SQUARE, fused=True), OPTIONS)
    assert not plan.rewrite
    assert sorted(names(k.value for k in plan.kept_after)) == ["Tanh:0", "matmul_1:0"]


def test_output_gradients_are_factored():
    def step(x, w, dz):
        with tf.GradientTape() as tape:
            tape.watch(w)
            z = mish(mish(x @ w) @ w)
        return tape.gradient(z, w, output_gradients=dz)

    arguments = numbers(128, 128), numbers(128, 128, scale=128**-0.5), numbers(128, 128)
    expected = tf.function(step)(*arguments)
    actual = nfad.function(step, options=OPTIONS)(*arguments)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_a_layer_waits_for_the_gradient_of_the_weights_of_the_one_after():
    """Else all those products, with what they read, may be left for the end."""
    candidates = candidates_of(layers(mish), *[SQUARE] * 5, fused=True)
    plan = forward_ad.plan(candidates, OPTIONS)
    cotangent = candidates.roles.cotangent
    products = [n for n in candidates.view.nodes if n.op_type == "MatMul" and cotangent[n.id]]
    of_weights = [n for n in products if n.attr("transpose_a")]
    assert len(of_weights) == 4
    added = [n for n in plan.rewrite.nodes if n.op_type == "Mul"]
    waited_for = [w for w in of_weights if any(w in n.controls for n in added)]
    # The last of them is that of the first layer, which nothing comes after.
    assert waited_for == of_weights[:-1]
    at = {}
    for place, ran in enumerate(plan.after.steps):
        for node in ran.nodes:
            at[node.id] = place
    for product in waited_for:
        assert at[product.id] < min(at[n.id] for n in added if product in n.controls)
