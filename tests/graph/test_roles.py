"""Roles against what was there before `tape.gradient` was called."""

from __future__ import annotations

import math

import pytest
import tensorflow as tf
from traced import mish, names, node, nodes, view_of

from nested_fad_tf.graph.roles import Role, Roles, find_roles
from nested_fad_tf.graph.view import GraphView

X = W = tf.TensorSpec([16, 16])


def square(y):
    return y * y


class Recorder:
    """Remembers which ops were there when the backward pass began."""

    def __init__(self) -> None:
        self.forward: set[str] = set()

    def backward_begins(self) -> None:
        graph = tf.compat.v1.get_default_graph()
        self.forward = {op.name for op in graph.get_operations()}


def roles_of(step, *specs) -> tuple[GraphView, Roles]:
    view = view_of(step, *specs)
    return view, find_roles(view)


def check(make, gradients: int, given=()) -> tuple[GraphView, Roles]:
    """Traces a step that ends in so many gradients; what came before them has to be forward.

    Args:
        make: Gives the step for a recorder.
        gradients: How many of the outputs, counted from the last, are gradients.
        given: Names of seeds that the step itself makes.
    """
    recorder = Recorder()
    view, roles = roles_of(make(recorder), X, W)
    assert roles.seeds
    assert recorder.forward
    for n in view.nodes:
        if n.name in recorder.forward and n.name not in given:
            assert roles.of(n) is Role.FORWARD, n
    for value in view.outputs[len(view.outputs) - gradients :]:
        assert roles.of(value.storage.node) is Role.COTANGENT, value
    for value in view.outputs[: len(view.outputs) - gradients]:
        assert roles.of(value.storage.node) is Role.FORWARD, value
    return view, roles


def test_a_gradient_has_one_seed():
    def make(recorder):
        def step(x, w):
            with tf.GradientTape() as tape:
                tape.watch([x, w])
                loss = tf.reduce_mean(tf.square(mish(x @ w)))
            recorder.backward_begins()
            return loss, tape.gradient(loss, [x, w])

        return step

    view, roles = check(make, gradients=2)
    assert len(roles.seeds) == 1
    assert "ones" in roles.seeds[0].name
    assert roles.seeds[0].shape == ()
    assert roles.of(node(view, "TanhGrad")) is Role.COTANGENT
    assert [roles.of(n) for n in nodes(view, "MatMul")] == [Role.FORWARD] + [Role.COTANGENT] * 2


def test_a_target_that_is_not_a_scalar():
    def make(recorder):
        def step(x, w):
            with tf.GradientTape() as tape:
                tape.watch(w)
                y = tf.tanh(x @ w)
            recorder.backward_begins()
            return y, tape.gradient(y, w)

        return step

    _, roles = check(make, gradients=1)
    assert [s.shape for s in roles.seeds] == [(16, 16)]


def roles_with_output_gradients(activation) -> tuple[GraphView, Roles]:
    def step(x, w, dy):
        with tf.GradientTape() as tape:
            tape.watch(w)
            y = activation(x @ w)
        recorder.backward_begins()
        return y, tape.gradient(y, w, output_gradients=dy)

    recorder = Recorder()
    view, roles = roles_of(step, X, W, X)
    assert roles.of(view.outputs[1].storage.node) is Role.COTANGENT
    for name in recorder.forward - {"dy"}:
        assert roles.of(node(view, name)) is Role.FORWARD, name
    return view, roles


@pytest.mark.parametrize("activation", [tf.tanh, tf.nn.silu, mish, square])
def test_output_gradients_do_not_confuse_the_forward_pass(activation):
    view, roles = roles_with_output_gradients(activation)
    assert roles.seeds
    assert roles.of(view.outputs[0].storage.node) is Role.FORWARD


@pytest.mark.parametrize(
    "activation",
    [
        tf.tanh,
        mish,
        square,
    ],
)
def test_output_gradients_are_the_seed(activation):
    _, roles = roles_with_output_gradients(activation)
    assert names(roles.seeds) == ["dy:0"]


def test_output_gradients_that_are_computed():
    def make(recorder):
        def step(x, w):
            with tf.GradientTape() as tape:
                tape.watch(w)
                y = tf.tanh(x @ w)
            scaled = tf.multiply(x, 3.0, name="given")
            recorder.backward_begins()
            return y, tape.gradient(y, w, output_gradients=scaled)

        return step

    _, roles = check(make, gradients=1, given={"given"})
    assert names(roles.seeds) == ["given:0"]


def test_a_persistent_tape_with_two_gradient_calls():
    def make(recorder):
        def step(x, w):
            with tf.GradientTape(persistent=True) as tape:
                tape.watch([x, w])
                y = tf.tanh(x @ w)
                first, second = tf.reduce_sum(y), tf.reduce_mean(tf.exp(y))
            recorder.backward_begins()
            return first, second, tape.gradient(first, w), tape.gradient(second, w)

        return step

    view, roles = check(make, gradients=2)
    assert len(roles.seeds) == 2
    assert len(nodes(view, "TanhGrad")) == 2
    assert all(roles.of(n) is Role.COTANGENT for n in nodes(view, "TanhGrad"))


def test_nested_tapes():
    def make(recorder):
        def step(x, w):
            with tf.GradientTape() as outer:
                outer.watch(w)
                with tf.GradientTape() as inner:
                    inner.watch(x)
                    y = tf.reduce_sum(tf.tanh(x @ w))
                recorder.backward_begins()
                dx = inner.gradient(y, x)
                penalty = tf.reduce_sum(tf.square(dx))
            return outer.gradient(penalty, w)

        return step

    view, roles = check(make, gradients=1)
    assert len(roles.seeds) == 2
    # What is made of the inner gradient depends on its seed.
    assert roles.of(node(view, "Square")) is Role.COTANGENT


@pytest.mark.parametrize("given", [False, True])
def test_tf_gradients(given):
    def make(recorder):
        def step(x, w):
            y = mish(x @ w)
            given_seed = tf.fill([16, 16], 2.0, name="mine") if given else None
            recorder.backward_begins()
            return y, *tf.gradients(y, [x, w], grad_ys=given_seed)

        return step

    _, roles = check(make, gradients=2, given={"mine"})
    assert len(roles.seeds) == 1


def test_calls_of_tf_gradients_are_counted_up():
    def make(recorder):
        def step(x, w):
            y = tf.tanh(x @ w)
            z = tf.exp(y)
            recorder.backward_begins()
            return tf.gradients(y, w)[0], tf.gradients(z, w)[0]

        return step

    _, roles = check(make, gradients=2)
    assert len(roles.seeds) == 2


def test_silu_with_its_custom_gradient():
    def make(recorder):
        def step(x, w):
            with tf.GradientTape() as tape:
                tape.watch(w)
                y = tf.nn.silu(tf.nn.silu(x @ w) @ w)
                loss = tf.reduce_sum(y)
            recorder.backward_begins()
            return loss, tape.gradient(loss, w)

        return step

    check(make, gradients=1)


def test_a_users_custom_gradient():
    @tf.custom_gradient
    def cube(x):
        def grad(dy):
            return dy * (3.0 * tf.square(x))

        return x * x * x, grad

    def make(recorder):
        def step(x, w):
            with tf.GradientTape() as tape:
                tape.watch(w)
                loss = tf.reduce_sum(cube(x @ w))
            recorder.backward_begins()
            return loss, tape.gradient(loss, w)

        return step

    view, roles = check(make, gradients=1)
    # The factor depends on forward values only, wherever it was made.
    assert roles.of(node(view, "Square")) is not Role.COTANGENT
    assert len(roles.seeds) == 1


def test_a_custom_gradient_at_the_output():
    @tf.custom_gradient
    def clipped(x):
        return tf.identity(x), lambda dy: tf.clip_by_value(dy, -1.0, 1.0)

    def make(recorder):
        def step(x, w):
            with tf.GradientTape() as tape:
                tape.watch(w)
                y = clipped(tf.tanh(x @ w))
            recorder.backward_begins()
            return y, tape.gradient(y, w)

        return step

    _, roles = check(make, gradients=1)
    assert len(roles.seeds) == 1


def test_loss_scaling():
    def make(recorder):
        def step(x, w):
            with tf.GradientTape() as tape:
                tape.watch(w)
                loss = tf.reduce_mean(mish(x @ w))
                scaled = loss * 1024.0
            recorder.backward_begins()
            return loss, tape.gradient(scaled, w) / 1024.0

        return step

    _, roles = check(make, gradients=1)
    assert len(roles.seeds) == 1


def test_ones_of_the_model_are_no_seeds():
    def make(recorder):
        def step(x, w):
            with tf.GradientTape() as tape:
                tape.watch(w)
                mask = tf.linalg.band_part(tf.ones([16, 16]), -1, 0)
                y = (x @ w) * mask + tf.ones_like(x) * tf.ones([16, 1])
                loss = tf.reduce_sum(tf.tanh(y * tf.ones([16], name="ones")))
            recorder.backward_begins()
            return loss, tape.gradient(loss, w)

        return step

    view, roles = check(make, gradients=1)
    assert len(roles.seeds) == 1
    assert len([n for n in view.nodes if "ones" in n.name]) >= 4


@pytest.mark.parametrize(
    "step",
    [
        lambda x, w: tf.tanh(x @ w),
        lambda x, w: tf.ones_like(x) * tf.ones([16, 16]),
        lambda x, w: mish(tf.ones([16, 16]) @ w),
    ],
)
def test_without_a_gradient_there_are_no_seeds(step):
    view, roles = roles_of(step, X, W)
    assert roles.seeds == ()
    assert {roles.of(n) for n in view.nodes} == {Role.FORWARD}


def test_a_derivative_factor_is_unclaimed():
    def make(recorder):
        def step(x, w):
            with tf.GradientTape() as tape:
                tape.watch(w)
                h = x @ w
                y = 0.5 * h * (1.0 + tf.math.erf(h / math.sqrt(2.0)))
                loss = tf.reduce_sum(y)
            recorder.backward_begins()
            return loss, tape.gradient(loss, w)

        return step

    view, roles = check(make, gradients=1)
    assert roles.of(node(view, "Exp")) is Role.UNCLAIMED
    assert roles.gradient_scope[node(view, "Exp").id]
    assert not roles.cotangent[node(view, "Exp").id]


def test_control_inputs_do_not_make_cotangents():
    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            y = tf.math.sin(x @ w)
            loss = tf.reduce_sum(y)
        return loss, tape.gradient(loss, w)

    view, roles = roles_of(step, X, W)
    factor = node(view, "Cos")
    assert any(roles.cotangent[c.id] for c in factor.controls)
    assert roles.of(factor) is Role.UNCLAIMED
