from __future__ import annotations

import tensorflow as tf
from traced import SIZE, SQUARE, candidates_of, names, node, nodes

from nested_fad_tf.graph.nodes import Value
from nested_fad_tf.graph.roles import Role
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.rewrite import Rewrite
from nested_fad_tf.plan.wiring import Wiring


def needed(candidates: Candidates) -> dict[str, list[tuple[str, int]]]:
    values = candidates.view.values
    return {
        values[i].name: [(n.op_type, at) for n, at in readers]
        for i, readers in candidates.needed.items()
    }


def output(candidates: Candidates, name: str) -> Value:
    return node(candidates.view, name).outputs[0]


def test_arguments_variables_and_constants_are_free():
    variable = tf.Variable(tf.zeros([128, 128]))
    constant = tf.constant(tf.random.stateless_normal([128, 128], (1, 2)).numpy())

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.tanh(x * variable * constant)
        return tape.gradient(y, x)

    candidates = candidates_of(step, SQUARE)
    for kind in ("ReadVariableOp", "Placeholder", "Const"):
        for n in nodes(candidates.view, kind):
            assert all(candidates.is_free(v) for v in n.outputs), n
    assert not candidates.is_free(output(candidates, "Tanh"))
    for value in needed(candidates):
        assert value not in names(candidates.view.values[i] for i in candidates.view.arguments)


def test_a_gradient_that_nobody_takes_needs_nothing():
    def step(x, factor):
        with tf.GradientTape() as tape:
            tape.watch([x, factor])
            y = tf.tanh(tf.exp(x) * factor)
        return tape.gradient(y, [x, factor])[0]

    candidates = candidates_of(step, SQUARE, SQUARE)
    # exp is read by its own gradient; the factor's gradient, which reads it too, isn't returned.
    live = Wiring(candidates.view, Rewrite()).live
    for readers in candidates.needed.values():
        assert all(live[n.id] for n, _ in readers)


def test_returned_values_are_free_by_whatever_view():
    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            h = x @ w
            a, b = tf.tanh(h), tf.sigmoid(h)
        return tf.reshape(a, [-1]), tape.gradient([a, b], w)

    candidates = candidates_of(step, SQUARE, SQUARE)
    assert candidates.is_free(output(candidates, "Tanh"))
    assert not candidates.is_free(output(candidates, "Sigmoid"))
    assert set(needed(candidates)) == {"Sigmoid:0"}


def test_a_returned_gradient_does_not_make_its_buffer_free():
    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            y = tf.tanh(x @ w)
        return tape.gradient(y, w)

    candidates = candidates_of(step, SQUARE, SQUARE)
    gradient = candidates.view.outputs[0].storage
    assert candidates.roles.cotangent[gradient.node.id]
    assert not candidates.is_free(gradient)


def tanh_step(x, w):
    with tf.GradientTape() as tape:
        tape.watch(w)
        y = tf.tanh(x @ w)
    return tape.gradient(y, w)


def test_what_is_small_is_free():
    small = candidates_of(tanh_step, SQUARE, SQUARE, min_bytes=SIZE + 1)
    assert small.is_free(output(small, "Tanh"))
    assert needed(small) == {}
    assert small.kept_today == ()
    large = candidates_of(tanh_step, SQUARE, SQUARE, min_bytes=SIZE)
    assert needed(large) == {"Tanh:0": [("TanhGrad", 0)]}
    assert names(large.kept_today) == ["Tanh:0"]


def test_bans_say_why():
    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            h = x @ w
            random = tf.random.uniform([128, 128])
            stateless = tf.random.stateless_uniform([128, 128], (1, 2))
            wide = tf.reduce_max(tf.reshape(h, [2, 64, 128]), axis=0)
            y = tf.tanh(tf.nn.softmax(h) * random * stateless)
            loss = tf.reduce_sum(y) + tf.reduce_sum(wide * wide)
        return tape.gradient(loss, w)

    candidates = candidates_of(step, SQUARE, SQUARE)
    view, bans = candidates.view, candidates.bans
    assert bans[nodes(view, "MatMul")[0].id] == "not an element-wise or layout op"
    assert bans[node(view, "RandomUniform").id] == "stateful: running it twice could be noticed"
    assert bans[node(view, "StatelessRandomUniformV2").id] == "random numbers are drawn once"
    assert bans[node(view, "Softmax").id].startswith("a reduction")
    assert bans[node(view, "Max").id].startswith("a reduction")
    for kind in ("Tanh", "Mul", "Reshape"):
        for n in nodes(view, kind):
            assert n.id not in bans, n
    # Cotangents are not decided about.
    assert not any(candidates.roles.cotangent[i] for i in bans)


def test_what_cotangents_read_is_known_by_buffer():
    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            y = tf.reshape(tf.tanh(x @ w), [64, 256])
            loss = tf.reduce_sum(y * y)
        return tape.gradient(loss, w)

    candidates = candidates_of(step, SQUARE, SQUARE)
    readers = needed(candidates)
    assert set(readers) == {"Tanh:0"}
    assert ("TanhGrad", 0) in readers["Tanh:0"]
    assert len(readers["Tanh:0"]) == 3  # the product's gradients read the reshaped tensor


def test_a_shape_does_not_need_its_tensor():
    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            h = x @ w
            loss = tf.reduce_sum(h + tf.reduce_mean(h, axis=0))
        return tape.gradient(loss, w)

    candidates = candidates_of(step, tf.TensorSpec([None, 128]), SQUARE)
    assert nodes(candidates.view, "Shape")
    assert needed(candidates) == {}
    assert candidates.kept_today == ()


def softplus_step(x, w):
    with tf.GradientTape() as tape:
        tape.watch(w)
        y = tf.nn.softplus(x @ w)
    return tape.gradient(y, w)


def test_a_factor_without_control_inputs_runs_early_and_is_kept_today():
    candidates = candidates_of(softplus_step, SQUARE, SQUARE)
    factor = output(candidates, "Sigmoid")
    assert candidates.roles.of(factor.node) is Role.UNCLAIMED
    assert not candidates.late[factor.node.id]
    assert factor in candidates.kept_today
    assert factor.id in candidates.needed


def sine_step(x, w):
    with tf.GradientTape() as tape:
        tape.watch(w)
        y = tf.math.sin(x @ w)
    return tape.gradient(y, w)


def test_a_factor_that_waits_for_the_gradient_is_late_and_its_input_kept_today():
    candidates = candidates_of(sine_step, SQUARE, SQUARE)
    factor = output(candidates, "Cos")
    assert not candidates.roles.cotangent[factor.node.id]
    assert candidates.late[factor.node.id]
    assert names(candidates.kept_today) == ["matmul:0"]
    assert set(needed(candidates)) == {factor.name}  # what a cotangent reads
    assert candidates.is_tied_factor(factor.node)


def test_forward_nodes_and_cotangents_are_no_tied_factors():
    candidates = candidates_of(sine_step, SQUARE, SQUARE)
    for n in candidates.view.nodes:
        if n.op_type not in ("Cos", "Const"):
            assert not candidates.is_tied_factor(n), n


def test_a_control_input_of_the_users_is_no_tie():
    variable = tf.Variable(0.0)

    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            h = x @ w
            loss = tf.reduce_sum(tf.tanh(h))
        dw = tape.gradient(loss, w)
        with tf.control_dependencies([variable.assign(dw[0, 0])]):
            after = tf.exp(h)
        return dw, tf.reduce_sum(after)

    candidates = candidates_of(step, SQUARE, SQUARE)
    exp = node(candidates.view, "Exp")
    assert candidates.late[exp.id]
    assert not candidates.is_tied_factor(exp)


def test_late_and_early_split_the_graph():
    candidates = candidates_of(sine_step, SQUARE, SQUARE)
    view = candidates.view
    assert not any(candidates.late[n.id] for n in nodes(view, "Sin") + nodes(view, "MatMul")[:1])
    assert all(candidates.late[n.id] for n in view.nodes if candidates.roles.cotangent[n.id])
