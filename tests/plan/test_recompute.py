from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from traced import SQUARE, candidates_of, layers, mish, names, node, numbers

import nested_fad_tf as nfad
from nested_fad_tf.graph.nodes import Node
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.cut import Cut, minimum_cut
from nested_fad_tf.plan.peak import simulate
from nested_fad_tf.plan.recompute import Recomputation
from nested_fad_tf.plan.rewrite import Rewrite, RewriteBuilder
from nested_fad_tf.plan.stages import Stages
from nested_fad_tf.plan.strategies import STRATEGIES

OPTIONS = nfad.Options(fuse="ops", min_bytes=64, on_error="raise", strategy="recompute")


def recompute(candidates: Candidates, cut: Cut) -> tuple[Recomputation, Rewrite]:
    recomputation = Recomputation(candidates, Stages(candidates), cut)
    recomputation.redirect_readers()
    return recomputation, recomputation.builder.build()


def read_now(candidates: Candidates, rewrite: Rewrite, reader: Node, index: int) -> Node:
    value = rewrite.redirects.get((reader.id, index), reader.inputs[index])
    return value.node


def mish_step(x, w, v):
    with tf.GradientTape() as tape:
        tape.watch([w, v])
        loss = tf.reduce_sum(tf.tanh(mish(x @ w) @ v))
    return tape.gradient(loss, [w, v])


@pytest.fixture
def mishes() -> tuple[Candidates, Cut, Rewrite]:
    candidates = candidates_of(mish_step, SQUARE, SQUARE, SQUARE)
    cut = minimum_cut(candidates, 1.0)
    assert sorted(names(cut.kept)) == ["Tanh_1:0", "matmul:0"]
    return candidates, cut, recompute(candidates, cut)[1]


def test_readers_in_different_stages_get_copies_of_their_own(mishes):
    candidates, cut, rewrite = mishes
    view = candidates.view
    weight_gradient = node(view, "gradient_tape/matmul_1/MatMul_1")
    region = node(view, "gradient_tape/TanhGrad_1")
    product = read_now(candidates, rewrite, weight_gradient, 0)
    tanh = read_now(candidates, rewrite, region, 0)
    assert (product.op_type, tanh.op_type) == ("Mul", "Tanh")
    assert product.inputs[1].node.op_type == "Tanh"
    assert product.inputs[1].node is not tanh
    copies = {view.nodes[i].op_type: n for i, n in Stages(candidates).copies(cut).items()}
    assert copies == {"Softplus": 2, "Tanh": 2, "Mul": 1, "Sigmoid": 1}


def residual_step(depth):
    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            for _ in range(depth):
                x = x + mish(tf.tanh(x) @ w)
            loss = tf.reduce_sum(x)
        return tape.gradient(loss, w)

    return step


@pytest.mark.parametrize("strategy", ["auto", "recompute"])
def test_copies_grow_with_the_depth_and_not_with_its_square(strategy, monkeypatch):
    """All blocks behind one want its sum: without a bound each would compute all sums before it."""
    tried = []
    build = RewriteBuilder.build

    def record(builder):
        tried.append(len(builder.nodes))
        return build(builder)

    monkeypatch.setattr(RewriteBuilder, "build", record)
    most = []
    for depth in (20, 80):
        candidates = candidates_of(residual_step(depth), SQUARE, SQUARE)
        assert STRATEGIES[strategy](candidates, OPTIONS.replace(strategy=strategy)).rewrite
        most.append(max(tried))
        tried.clear()
    assert 20 < most[0] < most[1] < 6 * most[0]


def test_element_wise_readers_of_a_region_share_copies(mishes):
    candidates, _, rewrite = mishes
    view = candidates.view
    first = read_now(candidates, rewrite, node(view, "gradient_tape/mul/Mul"), 1)
    second = read_now(candidates, rewrite, node(view, "gradient_tape/TanhGrad_1"), 0)
    assert first is second
    assert first.op_type == "Tanh"


def test_copies_are_of_their_originals_and_read_what_is_kept(mishes):
    _, _, rewrite = mishes
    added = {n.id for n in rewrite.nodes}
    for copy in rewrite.nodes:
        assert copy.origin is not None
        assert copy.name == f"nested_fad/{copy.origin.name}"
        assert copy.op_type == copy.origin.op_type
        for now, then in zip(copy.inputs, copy.origin.inputs, strict=True):
            assert now is then or (now.node.id in added and now.node.origin is then.node)
            assert now.node.id in added or now.node.op_type in ("MatMul", "Const")


def test_only_copies_that_read_kept_values_wait_and_for_their_stage(mishes):
    candidates, _, rewrite = mishes
    view = candidates.view
    added = {n.id for n in rewrite.nodes}
    stages = {"gradient_tape/TanhGrad", "gradient_tape/matmul_1/MatMul"}
    found = set()
    for copy in rewrite.nodes:
        if any(v.node.id in added for v in copy.inputs):
            assert not copy.controls, copy
        else:
            assert copy.controls[0].name in stages
            assert candidates.roles.cotangent[copy.controls[0].id]
            found.add(copy.controls[0].name)
    assert found == stages
    product = read_now(candidates, rewrite, node(view, "gradient_tape/matmul_1/MatMul_1"), 0)
    start = product.inputs[1].node.inputs[0].node
    assert start.controls[0].name == "gradient_tape/TanhGrad"  # the cotangent it is read with


def test_a_stage_waits_for_the_products_of_the_stage_before(mishes):
    candidates, _, rewrite = mishes
    later = [n for n in rewrite.nodes if "gradient_tape/matmul_1/MatMul" in names(n.controls)]
    assert {n.op_type for n in later} == {"Softplus", "Sigmoid"}
    for copy in later:
        assert "gradient_tape/matmul_1/MatMul_1" in names(copy.controls)
    simulate(candidates.view, rewrite)  # no cycle


def test_without_ordering_edges_the_peak_would_be_higher():
    candidates = candidates_of(layers(mish), *[SQUARE] * 5)
    _, rewrite = recompute(candidates, minimum_cut(candidates, 0.05))
    before = simulate(candidates.view).peak_bytes
    after = simulate(candidates.view, rewrite).peak_bytes
    assert after < before
    for copy in rewrite.nodes:
        copy.controls.clear()
    assert simulate(candidates.view, rewrite).peak_bytes > after


def test_the_first_stage_waits_for_losses_and_metrics():
    """The executor leaves them for the end, and what they read stays alive as long."""

    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            y = x
            for i in range(4):
                y = mish(y @ w[i])
            loss = tf.reduce_sum(y * y)
        return loss, tf.argmax(y, 1), tape.gradient(loss, w)

    candidates = candidates_of(step, SQUARE, tf.TensorSpec([4, 128, 128]))
    aside = names(Stages(candidates).aside)
    assert aside == ["Sum", "ArgMax"]
    _, rewrite = recompute(candidates, minimum_cut(candidates, 0.05))
    waiting = [copy for copy in rewrite.nodes if "ArgMax" in names(copy.controls)]
    (stage,) = {copy.controls[0].id for copy in waiting}
    assert stage == min(copy.controls[0].id for copy in rewrite.nodes if copy.controls)
    assert all(set(aside) <= set(names(copy.controls)) for copy in waiting)
    simulate(candidates.view, rewrite)  # no cycle


def test_all_that_a_cut_promises_to_free_is_read_no_more():
    candidates = candidates_of(mish_step, SQUARE, SQUARE, SQUARE)
    cut = minimum_cut(candidates, 1.0)
    _, rewrite = recompute(candidates, cut)
    kept = {v.id for v in cut.kept}
    for n in candidates.view.nodes:
        if not candidates.roles.cotangent[n.id]:
            continue
        for index, value in enumerate(n.inputs):
            root = rewrite.redirects.get((n.id, index), value).storage
            forward = (
                root.id < len(candidates.view.values)
                and not (candidates.roles.cotangent[root.node.id])
            )
            assert not forward or candidates.free[root.id] or root.id in kept


def test_views_of_what_is_recomputed_are_made_again():
    def step(x, w, v):
        with tf.GradientTape() as tape:
            tape.watch([w, v])
            flat = tf.reshape(tf.exp(tf.tanh(x @ w)), [64, 256])
            a, b = tf.raw_ops.IdentityN(input=[flat, tf.sigmoid(flat)])
            z = tf.reshape(a * b, [128, 128]) @ v
        return tape.gradient(z, [w, v])

    candidates = candidates_of(step, SQUARE, SQUARE, SQUARE)
    cut = minimum_cut(candidates, 0.0)
    _, rewrite = recompute(candidates, cut)
    assert {"Reshape", "Sigmoid"} <= {n.op_type for n in rewrite.nodes}
    # An output of IdentityN stands for its own input: nothing to copy.
    assert "IdentityN" not in {n.op_type for n in rewrite.nodes}
    for copy in rewrite.nodes:
        assert [v.dtype for v in copy.outputs] == [v.dtype for v in copy.origin.outputs]
        assert [v.shape for v in copy.outputs] == [v.shape for v in copy.origin.outputs]


@pytest.mark.parametrize("like", ["ZerosLike", "OnesLike"])
@pytest.mark.parametrize("rows", [128, None])
def test_zeros_and_ones_do_not_keep_what_they_are_like(like, rows):
    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            h = tf.tanh(x @ w)
            fill = getattr(tf.raw_ops, like)(x=h)
            z = (h * fill) @ w
            loss = tf.reduce_sum(z)
        return tape.gradient(loss, w)

    candidates = candidates_of(step, tf.TensorSpec([rows, 128]), SQUARE)
    filled = node(candidates.view, like)
    assert filled.outputs[0].id in candidates.needed
    cut = minimum_cut(candidates, 0.05)
    assert filled.id in cut.recomputed
    _, rewrite = recompute(candidates, cut)
    assert like not in {n.op_type for n in rewrite.nodes}
    fills = [n for n in rewrite.nodes if n.op_type == "Fill"]
    assert fills
    for fill in fills:
        shape, number = (v.node for v in fill.inputs)
        assert shape.op_type == ("Const" if rows else "Shape")
        assert float(number.attr("value")) == (like == "OnesLike")
        assert not shape.controls  # read in the forward pass
        assert fill.controls
        assert fill.outputs[0].shape == (rows, 128)


def run_both(step, *args, options=OPTIONS, spec=None):
    """The results of a step and of its rewrite, and the report."""
    rewritten = nfad.function(step, options=options, input_signature=spec)
    expected = tf.function(step)(*args)
    actual = rewritten(*args)
    return expected, actual, rewritten.reports[-1], rewritten


def dropout_step(x, w, v):
    with tf.GradientTape() as tape:
        tape.watch([w, v])
        # Neither mish nor swish: where TensorFlow runs oneDNN, it fuses those on its own if nothing
        # else reads what is inside, and rounds otherwise than the ops.
        z = x @ w
        h = tf.tanh(z * tf.atan(z))
        noise = tf.random.stateless_uniform(tf.shape(h), (1, 2))
        z = tf.where(noise < 0.6, h / 0.6, tf.zeros([])) @ v
        loss = tf.reduce_sum(z * z)
    return loss, tape.gradient(loss, [w, v])


def bits_kept(report: nfad.Report) -> list[bool]:
    return ["as bits" in kept.why for kept in report.kept if kept.dtype == "bool"]


@pytest.mark.parametrize(("rows", "columns", "packed"), [(16, 24, True), (15, 17, False)])
def test_masks_make_the_round_trip_exactly(rows, columns, packed):
    args = numbers(rows, columns), numbers(columns, columns), numbers(columns, columns)
    expected, actual, report, _ = run_both(dropout_step, *args)
    assert report.changed
    assert bits_kept(report) == [packed]
    for want, got in zip(tf.nest.flatten(expected), tf.nest.flatten(actual), strict=True):
        np.testing.assert_array_equal(got, want)


def test_masks_of_an_unknown_batch_make_the_round_trip_exactly():
    w, v = numbers(24, 24), numbers(24, 24)
    spec = [tf.TensorSpec([None, 24]), tf.TensorSpec([24, 24]), tf.TensorSpec([24, 24])]
    rewritten = nfad.function(dropout_step, options=OPTIONS, input_signature=spec)
    plain = tf.function(dropout_step, input_signature=spec)
    for rows in (32, 5, 1, 0):
        x = numbers(rows, 24)
        for want, got in zip(
            tf.nest.flatten(plain(x, w, v)), tf.nest.flatten(rewritten(x, w, v)), strict=True
        ):
            np.testing.assert_array_equal(got, want)
    (report,) = rewritten.reports
    assert report.changed
    assert bits_kept(report) == [True]
    assert report.nominal_size == 32  # the rows of the first call


def test_every_byte_of_a_mask_is_unpacked_as_it_was():
    patterns = np.unpackbits(np.arange(256, dtype=np.uint8)).reshape(256, 8)

    def gradient(x, noise):
        with tf.GradientTape() as tape:
            tape.watch(x)
            # A running sum of one number is the number, but isn't recomputed: the mask is kept.
            mask = tf.squeeze(tf.math.cumsum(noise[:, :, None], axis=2), 2) > 0.5
            y = tf.where(mask, tf.exp(mish(x)), tf.zeros([]))
        return tape.gradient(y, x)

    x = 1.0 + tf.random.stateless_uniform([256, 8], (3, 4))
    noise = tf.constant(patterns, tf.float32)
    expected, actual, report, _ = run_both(gradient, x, noise)
    assert bits_kept(report) == [True]
    np.testing.assert_array_equal(actual.numpy() != 0, patterns.astype(bool))
    np.testing.assert_array_equal(actual, expected)


def test_a_packed_mask_with_several_readers_is_packed_once():
    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            h = x @ w
            mask = tf.random.stateless_uniform([128, 128], (1, 2)) < 0.5
            z = tf.where(mask, h, tf.zeros([])) @ w
            z = tf.where(mask, z, tf.ones([])) @ w
        return tape.gradient(z, w)

    candidates = candidates_of(step, SQUARE, SQUARE)
    cut = minimum_cut(candidates, 1.0)
    assert names(cut.kept).count("Less:0") == 1
    _, rewrite = recompute(candidates, cut)
    packs = [n for n in rewrite.nodes if n.op_type == "RightShift"]
    unpacks = [n for n in rewrite.nodes if n.op_type == "BitwiseAnd"]
    assert (len(packs), len(unpacks)) == (1, 2)
    assert packs[0].outputs[0].shape == (128 * 128 // 8,)
    simulate(candidates.view, rewrite)
