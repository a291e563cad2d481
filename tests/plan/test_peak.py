"""Peaks that can be worked out by hand, in tensors of `SIZE` bytes."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from traced import SIZE, SQUARE, names, node, nodes, view_of

from nested_fad_tf.plan.peak import CycleError, Lifetimes, simulate
from nested_fad_tf.plan.rewrite import Group, Rewrite, RewriteBuilder


def peak_of(step, *specs) -> float:
    return simulate(view_of(step, *specs)).peak_bytes / SIZE


@pytest.mark.parametrize("depth", [2, 3, 6])
def test_a_differentiated_chain_of_tanh_keeps_one_tensor_an_op_and_the_seed(depth):
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = x
            for _ in range(depth):
                y = tf.tanh(y)
            loss = tf.reduce_sum(y)
        return tape.gradient(loss, x)

    lifetimes = simulate(view_of(step, SQUARE))
    assert lifetimes.peak_bytes == (depth + 1) * SIZE
    assert len(lifetimes.live_at_peak) == depth + 1
    assert sum(v.nbytes for v in lifetimes.live_at_peak) == lifetimes.peak_bytes


def test_element_wise_ops_work_in_place():
    assert peak_of(lambda x, w: tf.exp(tf.tanh(tf.exp(x @ w))), SQUARE, SQUARE) == 1


def test_arguments_are_not_overwritten_nor_counted():
    assert peak_of(lambda x: tf.tanh(x), SQUARE) == 1
    assert peak_of(lambda x, y: x @ y, SQUARE, SQUARE) == 1


def test_other_kernels_need_their_inputs_beside_their_outputs():
    assert peak_of(lambda x, w: (x @ w) @ w, SQUARE, SQUARE) == 2
    # The third product starts when the first is gone.
    assert peak_of(lambda x, w: ((x @ w) @ w) @ w, SQUARE, SQUARE) == 2


def test_a_buffer_that_somebody_else_reads_is_not_overwritten():
    def step(x, w):
        a = x @ w
        b = tf.exp(a)
        return a * b

    # a and b; the product takes over one of them.
    assert peak_of(step, SQUARE, SQUARE) == 2


def test_what_is_returned_is_not_overwritten():
    def step(x, w):
        a = x @ w
        return a, tf.exp(a)

    assert peak_of(step, SQUARE, SQUARE) == 2


def test_views_are_their_roots_buffer():
    def step(x, w):
        a = tf.reshape(x @ w, [-1])
        return tf.reshape(tf.exp(tf.identity(a)), [64, 256])

    assert peak_of(step, SQUARE, SQUARE) == 1


def test_a_result_of_another_size_needs_a_buffer_of_its_own():
    def step(x, w):
        a = x @ w
        return tf.cast(a, tf.float16)

    assert peak_of(step, SQUARE, SQUARE) == 1.5


def test_constants_run_first_and_what_is_large_and_made_of_them_when_it_is_read():
    def step(x, w):
        y = tf.tanh(tf.exp(x @ w) @ w)
        noise = tf.random.stateless_uniform([128, 128], (1, 2))  # the seed is a constant
        zeros = tf.fill([128, 128], 0.0)
        return y @ (noise + zeros), tf.constant(1.0)

    view = view_of(step, SQUARE, SQUARE)
    order = [s.node.op_type for s in simulate(view).steps]
    assert "Const" not in order[order.index("Placeholder") :]
    fill = order.index("Fill")
    assert order[fill + 1] == "AddV2"
    assert fill > order.index("MatMul")


def test_what_is_put_off_comes_after_what_it_reads_and_before_what_waits_for_it():
    def step(x):
        noise = tf.random.stateless_uniform([128, 128], (1, 2))  # the seed is a constant
        return tf.multiply(x, noise, name="product"), tf.tanh(x)

    view = view_of(step, SQUARE)
    builder = RewriteBuilder(view)
    product = node(view, "product")
    noise = product.inputs[1]
    read = [(tf.float32, noise.shape)]
    number = builder.constant(
        np.full([8, 8], 2.0, np.float32), tf.float32, origin=noise.node, suffix="/twos"
    )
    times = builder.constant(
        np.array([16, 16], np.int32), tf.int32, origin=noise.node, suffix="/times"
    )
    tiled = builder.add("Tile", [number, times], read, origin=noise.node)
    scaled = builder.add("Mul", [noise, tiled.outputs[0]], read, origin=noise.node)
    builder.redirect(product, 1, scaled.outputs[0])
    tanh = node(view, "Tanh")
    again = builder.add("Tanh", tanh.inputs, read, origin=tanh, controls=[scaled])
    builder.redirect(view.outputs[1].node, 0, again.outputs[0])
    lifetimes = simulate(view, builder.build())
    at = {step.node.id: place for place, step in enumerate(lifetimes.steps)}
    assert at[scaled.id] < at[again.id]
    for ran in lifetimes.steps:
        before = [v.node for v in ran.inputs] + [wait.node for wait in ran.waits]
        assert all(at[other.id] < at[ran.node.id] for other in before)


def test_what_is_made_of_constants_runs_though_nothing_reads_it():
    def step(x):
        return x + 1.0, tf.reshape(tf.fill([128, 128], 2.0), [-1])

    order = [s.node.op_type for s in simulate(view_of(step, SQUARE)).steps]
    assert {"Fill", "Reshape"} <= set(order)


def test_dead_code_does_not_run():
    def live(x, w):
        return tf.tanh(x @ w)

    def dead(x, w):
        for _ in range(5):
            _ = tf.exp((x @ w) @ w)
        return tf.tanh(x @ w)

    view = view_of(dead, SQUARE, SQUARE)
    expected, actual = simulate(view_of(live, SQUARE, SQUARE)), simulate(view)
    assert actual.peak_bytes == expected.peak_bytes
    assert actual.nodes == expected.nodes < len(view.nodes)


def test_stateful_ops_are_not_dead():
    variable = tf.Variable(0.0)

    def step(x, w):
        variable.assign(tf.reduce_sum(tf.exp((x @ w) @ w)))
        return tf.constant(0.0)

    assert peak_of(step, SQUARE, SQUARE) >= 2


def test_the_timeline_rises_to_the_peak_and_ends_with_the_outputs():
    lifetimes = simulate(view_of(lambda x, w: (x @ w) @ w, SQUARE, SQUARE))
    assert isinstance(lifetimes, Lifetimes)
    assert len(lifetimes.timeline) == lifetimes.nodes
    # Two products; the second needs the first one beside its own result.
    assert [size for size in lifetimes.timeline if size] == [SIZE, 2 * SIZE, SIZE]
    assert max(lifetimes.timeline) == lifetimes.peak_bytes
    assert names(lifetimes.live_at_peak) == ["matmul:0", "matmul_1:0"]


def two_ops(x, w):
    return tf.exp(tf.tanh(x @ w))


def group_of(view, *kinds: str) -> Group:
    members = tuple(node(view, kind) for kind in kinds)
    ids = {m.id for m in members}
    inputs = tuple(v for m in members for v in m.inputs if v.node.id not in ids)
    outputs = tuple(
        m.outputs[0]
        for m in members
        if any(r.id not in ids for r, _ in view.consumers[m.outputs[0].id])
    )
    return Group(members, (), inputs, outputs)


def test_a_group_is_one_step_that_allocates_only_what_others_read():
    def step(x, w):
        a = x @ w
        b = tf.tanh(a)
        return (tf.sin(b) * b) @ w

    view = view_of(step, SQUARE, SQUARE)
    # tanh in place of a, sine, product in place: 2. The last matmul: product and result.
    assert simulate(view).peak_bytes == 2 * SIZE
    rewrite = Rewrite(groups=(group_of(view, "Tanh", "Sin", "Mul"),))
    fused = simulate(view, rewrite)
    assert fused.nodes == simulate(view).nodes - 2
    assert fused.peak_bytes == 2 * SIZE  # its input and its output: not in place
    assert "Tanh:0" not in names(fused.live_at_peak)


def test_a_group_does_not_write_over_its_input():
    view = view_of(two_ops, SQUARE, SQUARE)
    assert simulate(view).peak_bytes == SIZE
    rewrite = Rewrite(groups=(group_of(view, "Tanh", "Exp"),))
    assert simulate(view, rewrite).peak_bytes == 2 * SIZE


def test_a_group_around_a_matmul_is_a_cycle():
    def step(x, w):
        a = tf.tanh(x @ w)
        return tf.exp(a @ w) * a

    view = view_of(step, SQUARE, SQUARE)
    simulate(view)
    with pytest.raises(CycleError, match="never run"):
        simulate(view, Rewrite(groups=(group_of(view, "Tanh", "Exp", "Mul"),)))


def test_a_redirection_to_ones_own_result_is_a_cycle():
    view = view_of(two_ops, SQUARE, SQUARE)
    builder = RewriteBuilder(view)
    builder.redirect(node(view, "Tanh"), 0, node(view, "Exp").outputs[0])
    with pytest.raises(CycleError):
        simulate(view, builder.build())


def test_a_copy_that_waits_for_its_reader_is_a_cycle():
    view = view_of(two_ops, SQUARE, SQUARE)
    tanh, exp = node(view, "Tanh"), node(view, "Exp")
    builder = RewriteBuilder(view)
    copy = builder.add("Tanh", tanh.inputs, [(tf.float32, (128, 128))], origin=tanh, controls=[exp])
    builder.redirect(exp, 0, copy.outputs[0])
    with pytest.raises(CycleError):
        simulate(view, builder.build())


def test_recomputing_lowers_the_peak_by_what_is_no_longer_kept():
    def step(x, w):
        a = tf.tanh(x @ w)
        b = a @ w
        for _ in range(3):
            b = b @ w
        return b + a

    view = view_of(step, SQUARE, SQUARE)
    assert simulate(view).peak_bytes == 3 * SIZE
    # All of the first product and the tanh again, once the others are there.
    first, tanh, last = nodes(view, "MatMul")[0], node(view, "Tanh"), nodes(view, "MatMul")[-1]
    builder = RewriteBuilder(view)
    shape = [(tf.float32, (128, 128))]
    product = builder.add("MatMul", first.inputs, shape, origin=first, controls=[last])
    copy = builder.add("Tanh", [product.outputs[0]], shape, origin=tanh)
    builder.redirect(node(view, "AddV2"), 1, copy.outputs[0])
    after = simulate(view, builder.build())
    assert after.peak_bytes == 2 * SIZE
    assert after.nodes == simulate(view).nodes + 2


def test_what_an_added_constant_is_read_for_does_not_wait():
    """A small tensor takes a large one's place at once, though the constant comes last."""

    def step(x, w):
        large = x @ w
        small = tf.reduce_sum(large, axis=0)
        for _ in range(3):
            w = w @ w
        return tf.reduce_sum(w) + tf.reduce_sum(small)

    view = view_of(step, SQUARE, SQUARE)
    (small, *_) = nodes(view, "Sum")
    builder = RewriteBuilder(view)
    number = builder.constant(np.array(2.0, np.float32), tf.float32, origin=small, suffix="/two")
    product = small.inputs[0].node
    scaled = builder.add(
        "Mul",
        [product.outputs[0], number],
        [(tf.float32, product.outputs[0].shape)],
        origin=product,
        attrs={"T": tf.float32},
    )
    builder.redirect(small, 0, scaled.outputs[0])
    order = [step.node for step in simulate(view, builder.build()).steps]
    assert order.index(scaled) == order.index(product) + 1
