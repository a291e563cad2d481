from __future__ import annotations

import dataclasses

import pytest
import tensorflow as tf
from traced import SIZE, SQUARE, candidates_of, mish, names, node, nodes

import nested_fad_tf as nfad
from nested_fad_tf.ops.compiled import COMPILED
from nested_fad_tf.plan import groups, strategies
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.peak import CycleError, simulate
from nested_fad_tf.plan.rewrite import Group, Rewrite
from nested_fad_tf.plan.wiring import Wiring


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr(groups, "_LEAST_SAVED", 0)


def grouped(candidates: Candidates, rewrite: Rewrite | None = None, min_bytes=1024) -> Rewrite:
    rewrite = rewrite or Rewrite()
    wiring = Wiring(candidates.view, rewrite)
    found = groups.find_groups(wiring, candidates.roles, min_bytes, choosy=False)
    return dataclasses.replace(rewrite, groups=found)


def kinds(rewrite: Rewrite) -> list[list[str]]:
    return [[n.op_type for n in g.nodes] for g in rewrite.groups]


def check(candidates: Candidates, rewrite: Rewrite) -> None:
    """What holds for all groups: they run, share no node, and pass on what others read."""
    simulate(candidates.view, rewrite)
    members = [n.id for g in rewrite.groups for n in g.nodes]
    assert len(members) == len(set(members))
    returned = {v.id for v in candidates.view.outputs}
    redirected = dict(rewrite.redirects)
    for group in rewrite.groups:
        ids = {n.id for n in group.nodes}
        embedded = {n.id for n in group.embedded}
        assert all(n.op_type in COMPILED and not n.stateful for n in group.nodes)
        assert not returned & {v.id for n in group.nodes for v in n.outputs}
        inputs = {v.id for v in group.inputs}
        for n in group.nodes:
            for index, value in enumerate(n.inputs):
                now = redirected.get((n.id, index), value)
                assert now.id in inputs or now.node.id in ids | embedded
        assert len({n.device for n in group.nodes}) == 1
        assert group.outputs


def test_a_chain_is_one_group_with_one_input_and_one_output():
    candidates = candidates_of(lambda x, w: mish(x @ w) @ w, SQUARE, SQUARE)
    rewrite = grouped(candidates)
    (group,) = rewrite.groups
    assert kinds(rewrite) == [["Softplus", "Tanh", "Mul"]]
    assert names(group.inputs) == ["matmul:0"]
    assert names(group.outputs) == ["mul:0"]
    assert group.embedded == ()
    check(candidates, rewrite)


def test_single_ops_are_no_groups():
    candidates = candidates_of(lambda x, w: tf.tanh(x @ w) @ w, SQUARE, SQUARE)
    assert grouped(candidates).groups == ()


def test_reductions_and_layout_ops_end_a_group():
    def step(x, w):
        y = tf.exp(tf.tanh(x @ w))
        y = tf.transpose(tf.sin(tf.cos(y / tf.reduce_sum(y, axis=1, keepdims=True))))
        return tf.exp(tf.tanh(y)) @ w

    candidates = candidates_of(step, SQUARE, SQUARE)
    rewrite = grouped(candidates)
    assert kinds(rewrite) == [["Tanh", "Exp"], ["RealDiv", "Cos", "Sin"], ["Tanh", "Exp"]]
    check(candidates, rewrite)


def diamond(x, w):
    a = tf.tanh(tf.exp(x @ w))
    b = a @ w  # leaves the element-wise ops, and comes back below
    return (tf.sigmoid(a) * b + a) @ w


def test_a_diamond_through_a_matmul_is_not_one_group():
    candidates = candidates_of(diamond, SQUARE, SQUARE)
    view = candidates.view
    members = [node(view, k) for k in ("Exp", "Tanh", "Sigmoid")]
    members += [node(view, "mul"), node(view, "add")]
    everything = Group(
        tuple(members),
        (),
        (members[0].inputs[0], node(view, "mul").inputs[1]),
        (node(view, "Tanh").outputs[0], node(view, "add").outputs[0]),
    )
    with pytest.raises(CycleError):  # what connectivity alone would give
        simulate(view, Rewrite(groups=(everything,)))
    rewrite = grouped(candidates)
    check(candidates, rewrite)
    apart = {n.name: i for i, g in enumerate(rewrite.groups) for n in g.nodes}
    assert apart["Tanh"] == apart["Exp"]
    assert apart["mul"] == apart["add"] != apart["Tanh"]


def penalty_step(x, w):
    with tf.GradientTape() as outer:
        outer.watch(w)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = mish(mish(x @ w) @ w)
        dx = inner.gradient(y, x)
        loss = tf.reduce_sum(tf.square(tf.sqrt(tf.exp(dx)) - 1.0)) + tf.reduce_sum(y)
    return loss, outer.gradient(loss, w)


def branching_step(x, w):
    with tf.GradientTape() as tape:
        tape.watch(w)
        y = x
        for _ in range(3):
            y = y + mish(tf.nn.softmax(y @ w) * y)
            y = y * tf.sigmoid(y @ w) + tf.exp(y - tf.reduce_max(y, axis=1, keepdims=True))
        loss = tf.reduce_mean(y)
    return loss, tape.gradient(loss, w)


@pytest.mark.parametrize("step", [diamond, penalty_step, branching_step])
@pytest.mark.parametrize("strategy", ["plain", "recompute", "auto", "forward_ad"])
def test_groups_are_convex(step, strategy):
    candidates = candidates_of(step, SQUARE, SQUARE, fused=True)
    if strategy == "plain":
        rewrite = grouped(candidates)
    else:
        options = nfad.Options(strategy=strategy, fuse="xla", min_bytes=1024)
        rewrite = strategies.STRATEGIES[strategy](candidates, options).rewrite
    if strategy in ("plain", "recompute", "auto") and step is not diamond:
        assert len(rewrite.groups) > 2
    check(candidates, rewrite)


def test_numbers_are_computed_inside():
    def step(x, w):
        scale = tf.exp(tf.constant(0.5)) * 2.0
        return (tf.tanh(x @ w) * scale + 1.0) @ w

    candidates = candidates_of(step, SQUARE, SQUARE)
    (group,) = grouped(candidates).groups
    assert names(group.inputs) == ["matmul:0"]
    assert {n.op_type for n in group.embedded} == {"Const", "Exp", "Mul"}
    order = [n.id for n in group.embedded]
    for n in group.embedded:  # in an order in which they can be computed
        assert all(order.index(v.node.id) < order.index(n.id) for v in n.inputs)


def test_large_constants_and_variables_are_inputs():
    variable = tf.Variable(tf.ones([128]))

    def step(x, w):
        large = tf.constant([float(i) for i in range(128)])
        return ((tf.tanh(x @ w) + large) * variable) @ w

    candidates = candidates_of(step, SQUARE, SQUARE)
    (group,) = grouped(candidates).groups
    assert group.embedded == ()
    assert sorted(v.node.op_type for v in group.inputs) == ["Const", "MatMul", "ReadVariableOp"]


def test_what_is_small_is_left_alone():
    candidates = candidates_of(lambda x, w: mish(x @ w) @ w, SQUARE, SQUARE)
    assert grouped(candidates, min_bytes=SIZE + 1).groups == ()
    assert len(grouped(candidates, min_bytes=SIZE).groups) == 1


# mish apart reads 4 and writes 3 tensors; fused it reads one and writes one.
@pytest.mark.parametrize(("least", "count"), [(5 * SIZE, 1), (5 * SIZE + 1, 0)])
def test_a_group_has_to_spare_memory_traffic(monkeypatch, least, count):
    monkeypatch.setattr(groups, "_LEAST_SAVED", least)
    candidates = candidates_of(lambda x, w: mish(x @ w) @ w, SQUARE, SQUARE)
    assert len(grouped(candidates).groups) == count


@pytest.mark.parametrize(("layers", "count"), [(1, 0), (2, 2)])
def test_a_kind_of_group_has_to_be_worth_a_compilation(monkeypatch, layers, count):
    monkeypatch.setattr(groups, "_LEAST_SAVED_BY_KIND", 10 * SIZE)

    def step(x, w):
        for _ in range(layers):
            x = mish(x @ w)
        return x @ w

    candidates = candidates_of(step, SQUARE, SQUARE)
    options = nfad.Options(min_bytes=1024)
    for fuse, expected in (("auto", count), ("xla", layers), ("ops", 0)):
        rewrite, after = groups.grouped(candidates, Rewrite(), options.replace(fuse=fuse))
        assert len(rewrite.groups) == expected
        assert after == simulate(candidates.view, rewrite)


def test_results_and_control_outputs_are_not_fused_away():
    def step(x, w):
        a = tf.exp(tf.tanh(x @ w))
        return tf.sin(tf.cos(a)), a

    candidates = candidates_of(step, SQUARE, SQUARE)
    check(candidates, grouped(candidates))


def test_devices_are_not_mixed():
    def step(x, w):
        y = x @ w
        with tf.device("/CPU:0"):
            y = tf.exp(tf.tanh(y))
        return tf.cos(tf.sin(y)) @ w

    candidates = candidates_of(step, SQUARE, SQUARE)
    rewrite = grouped(candidates)
    assert kinds(rewrite) == [["Tanh", "Exp"], ["Sin", "Cos"]]
    check(candidates, rewrite)


def test_forward_ops_are_not_sunk_into_the_backward_pass():
    @tf.custom_gradient
    def activation(h):
        factor = tf.exp(tf.tanh(h))  # read in the backward pass only
        return tf.nn.softmax(h), lambda dy: tf.sin(dy * factor)

    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            loss = tf.reduce_sum(activation(x @ w) @ w)
        return tape.gradient(loss, w)

    candidates = candidates_of(step, SQUARE, SQUARE)
    rewrite = grouped(candidates)
    check(candidates, rewrite)
    assert ["Tanh", "Exp"] in kinds(rewrite)
    assert ["Mul", "Sin"] in kinds(rewrite)


@pytest.mark.parametrize(
    ("shortcut", "fused"),
    [
        (lambda h: tf.sin(h), [["Sin", "Exp", "AddV2"]]),
        # Later it would need two tensors in place of the one that it computes.
        (lambda h: tf.sin(h) * tf.transpose(h), [["Sin", "Mul"], ["Exp", "AddV2"]]),
    ],
)
def test_forward_ops_are_sunk_if_what_they_read_takes_no_more(shortcut, fused):
    def step(x, w):
        h = x @ w
        return (shortcut(h) + tf.exp(tf.tanh(h) @ w)) @ w

    candidates = candidates_of(step, SQUARE, SQUARE)
    rewrite = grouped(candidates)
    check(candidates, rewrite)
    assert kinds(rewrite) == fused


def test_backward_ops_are_sunk_to_what_they_are_combined_with():
    candidates = candidates_of(branching_step, SQUARE, SQUARE, fused=True)
    options = nfad.Options(fuse="xla", min_bytes=1024)
    rewrite = strategies.STRATEGIES["auto"](candidates, options).rewrite
    copies = {n.id for n in rewrite.nodes}
    cotangent = candidates.roles.cotangent
    mixed = [
        g
        for g in rewrite.groups
        if any(n.id in copies for n in g.nodes)
        and any(n.id not in copies and cotangent[n.id] for n in g.nodes)
    ]
    assert mixed  # copies run together with what reads them


def test_stateful_ops_and_unknown_shapes():
    def step(x):
        y = tf.exp(tf.tanh(x + tf.random.uniform([])))
        return tf.reduce_sum(y)

    candidates = candidates_of(step, tf.TensorSpec(None))
    assert grouped(candidates, min_bytes=0).groups == ()
    candidates = candidates_of(step, tf.TensorSpec([None, 64]))
    (group,) = grouped(candidates).groups
    assert [n.op_type for n in group.nodes] == ["AddV2", "Tanh", "Exp"]
    assert nodes(candidates.view, "RandomUniform")[0] not in group.nodes


@pytest.mark.parametrize(
    ("chain", "loss", "fused"),
    [
        (tf.float32, tf.float32, {tf.float32}),
        (tf.float64, tf.float64, {tf.float64}),
        (tf.bfloat16, tf.float32, {tf.float32}),
        (tf.float32, tf.float64, {tf.float64}),
        (tf.float64, tf.float32, {tf.float32, tf.float64}),
    ],
)
def test_what_is_less_precise_than_the_loss_is_not_compiled(chain, loss, fused):
    def step(x, w):
        x, w = tf.cast(x, loss), tf.cast(w, loss)
        with tf.GradientTape() as tape:
            tape.watch(w)
            y = mish(tf.cast(mish(tf.cast(mish(x @ w), chain)), loss))
            loss_ = tf.reduce_sum(y @ w)
        return tape.gradient(loss_, w)

    candidates = candidates_of(step, SQUARE, SQUARE)
    rewrite = grouped(candidates)
    dtypes = {v.dtype for g in rewrite.groups for n in g.nodes for v in (*n.inputs, *n.outputs)}
    assert dtypes - {tf.int32} == fused
    check(candidates, rewrite)


def test_a_product_with_one_stays_out():
    def step(x, w):
        h = x @ w
        same = 1.0 * h  # as tf.nn.silu multiplies by beta
        return (h * tf.sigmoid(same)) @ w, tf.exp(same) @ w

    candidates = candidates_of(step, SQUARE, SQUARE)
    fused = [n.op_type for g in grouped(candidates).groups for n in g.nodes]
    assert sorted(fused) == ["Mul", "Sigmoid"]
