"""Cuts of networks that can be worked out by hand, in units of one tensor's size."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from traced import SIZE, SQUARE, candidates_of, names, node, nodes

from nested_fad_tf.plan import cost
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.cut import Cut, minimum_cut


def kinds(candidates: Candidates, cut: Cut) -> list[str]:
    return [candidates.view.nodes[i].op_type for i in sorted(cut.recomputed)]


def kept(cut: Cut) -> list[str]:
    return sorted(names(cut.kept))


def chain_step(x, w, v):
    """x @ w = h -> tanh -> * 3 -> @ v; the seed is given, so that nothing else is needed."""
    with tf.GradientTape() as tape:
        tape.watch([w, v])
        z = (tf.tanh(x @ w) * 3.0) @ v
    return tape.gradient(z, [w, v])


@pytest.fixture
def chain() -> Candidates:
    return candidates_of(chain_step, SQUARE, SQUARE, SQUARE)


def test_what_the_chain_needs(chain):
    assert {chain.view.values[i].name for i in chain.needed} == {"Tanh:0", "mul:0"}


def test_the_product_is_recomputed_from_the_tanh(chain):
    # Keep tanh and multiply again: 1.03. Keep both: 2. Keep h and do both again: 1.43.
    cut = minimum_cut(chain, tradeoff=1.0)
    assert kept(cut) == ["Tanh:0"]
    assert kinds(chain, cut) == ["Mul"]


def test_at_a_tradeoff_of_zero_bytes_alone_decide(chain):
    cut = minimum_cut(chain, tradeoff=0.0)
    # One tensor either way; the tanh recomputes least.
    assert kept(cut) == ["Tanh:0"]
    assert kinds(chain, cut) == ["Mul"]


@pytest.mark.parametrize(("tradeoff", "recomputed"), [(30.0, ["Mul"]), (35.0, [])])
def test_where_recomputing_is_dearer_than_keeping_both_are_kept(chain, tradeoff, recomputed):
    # A product costs 0.03 of a tensor: 0.9 at a tradeoff of 30, 1.05 at one of 35.
    assert chain.prices.rate(cost.Cost.CHEAP, SIZE, fused=False) == pytest.approx(0.03)
    cut = minimum_cut(chain, tradeoff)
    assert kinds(chain, cut) == recomputed
    assert kept(cut) == (["Tanh:0"] if recomputed else ["Tanh:0", "mul:0"])


@pytest.mark.parametrize(("factor", "expected"), [(1.3, "Tanh:0"), (1.5, "matmul:0")])
def test_a_surcharge_moves_the_cut(chain, factor, expected):
    # With h kept the tanh is done again for 0.4.
    tanh = node(chain.view, "Tanh").outputs[0]
    cut = minimum_cut(chain, 1.0, surcharge={tanh.id: factor})
    assert kept(cut) == [expected]
    assert kinds(chain, cut) == (["Mul"] if expected == "Tanh:0" else ["Tanh", "Mul"])


def test_a_checkpoint_is_not_computed_again(chain):
    assert kinds(chain, minimum_cut(chain, 1.0)) == ["Mul"]
    product = node(chain.view, "mul")
    cut = minimum_cut(chain, 1.0, checkpoints={product.id})
    assert kept(cut) == ["Tanh:0", "mul:0"]
    assert kinds(chain, cut) == []


@pytest.mark.parametrize(("count", "recomputed"), [(30, ["Mul"]), (35, [])])
def test_what_has_to_be_recomputed_often_is_dearer(chain, count, recomputed):
    product = node(chain.view, "mul")
    cut = minimum_cut(chain, 1.0, times={product.id: count})
    assert kinds(chain, cut) == recomputed


def test_from_an_argument_everything_is_recomputed():
    def step(x, v):
        with tf.GradientTape() as tape:
            tape.watch([x, v])
            z = (tf.tanh(x) * 3.0) @ v
        return tape.gradient(z, [x, v])

    candidates = candidates_of(step, SQUARE, SQUARE)
    cut = minimum_cut(candidates, 1.0)
    assert cut.kept == ()
    assert kinds(candidates, cut) == ["Tanh", "Mul"]
    dear = minimum_cut(candidates, 100.0)
    assert kept(dear) == ["Tanh:0", "mul:0"]


def test_an_output_that_a_matmul_shares_is_kept_once():
    def step(x, w, v):
        with tf.GradientTape() as tape:
            tape.watch([w, v])
            z = tf.nn.relu(x @ w) @ v
        return tape.gradient(z, [w, v])

    candidates = candidates_of(step, SQUARE, SQUARE, SQUARE)
    (readers,) = candidates.needed.values()
    assert sorted(n.op_type for n, _ in readers) == ["MatMul", "ReluGrad"]
    for tradeoff in (0.0, 1.0, 100.0):
        cut = minimum_cut(candidates, tradeoff)
        assert kept(cut) == ["Relu:0"]
        assert not cut.recomputed


def test_reductions_are_kept_and_what_is_made_of_them_recomputed():
    def step(x, w, v):
        with tf.GradientTape() as tape:
            tape.watch([w, v])
            e = tf.exp(x @ w)
            z = (e / tf.reduce_sum(e, axis=1, keepdims=True)) @ v
        return tape.gradient(z, [w, v])

    candidates = candidates_of(step, SQUARE, SQUARE, SQUARE, min_bytes=256)
    cut = minimum_cut(candidates, 1.0)
    view = candidates.view
    total = nodes(view, "Sum")[0]
    assert total.outputs[0].nbytes == SIZE // 128
    assert total.outputs[0] in cut.kept
    assert not cut.recomputed & candidates.bans.keys()
    assert sum(v.nbytes for v in cut.kept) <= SIZE + 2 * SIZE // 128
    assert "RealDiv" in kinds(candidates, cut)


def test_a_normaliser_is_kept():
    def step(x, w, v):
        with tf.GradientTape() as tape:
            tape.watch([w, v])
            z = tf.nn.softmax(x @ w) @ v
        return tape.gradient(z, [w, v])

    cut = minimum_cut(candidates_of(step, SQUARE, SQUARE, SQUARE), 0.0)
    assert kept(cut) == ["Softmax:0"]


def masked_step(side):
    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            h = x @ w
            mask = tf.random.stateless_uniform([128, side], (1, 2)) < 0.5
            y = tf.where(mask, h, tf.zeros([]))
        return tape.gradient(y, w)

    return step


def test_a_mask_is_kept_at_an_eighth_of_its_bytes():
    candidates = candidates_of(masked_step(128), SQUARE, SQUARE)
    cut = minimum_cut(candidates, 1.0)
    assert kept(cut) == ["Less:0"]
    (mask,) = cut.kept
    assert mask.nbytes == 128 * 128
    assert cut.stored[mask.id].name == "bits"
    assert candidates.stored_bytes(mask) == 128 * 128 // 8


@pytest.mark.parametrize(
    ("shape", "packs"),
    [([128, 128], True), ([8], True), ([3, 5], False), ([None, 16], True), ([None, 3], False)],
)
def test_which_masks_are_packed(shape, packs):
    candidates = candidates_of(lambda x: x > 0.0, tf.TensorSpec(shape))
    mask = node(candidates.view, "Greater").outputs[0]
    assert (mask.id in candidates.formats) == packs
    expected = -(-mask.nbytes // 8) if packs else mask.nbytes
    assert candidates.stored_bytes(mask) == expected


def test_only_masks_of_a_known_rank_are_packed():
    candidates = candidates_of(lambda x: (x > 0.0, tf.tanh(x)), tf.TensorSpec(None))
    assert node(candidates.view, "Greater").outputs[0].id not in candidates.formats
    assert node(candidates.view, "Tanh").outputs[0].id not in candidates.formats


def test_a_mask_is_not_recomputed_from_its_random_numbers():
    candidates = candidates_of(masked_step(128), SQUARE, SQUARE)
    for tradeoff in (0.0, 1.0):
        cut = minimum_cut(candidates, tradeoff)
        assert "StatelessRandomUniformV2:0" not in kept(cut)


def test_without_a_backward_pass_nothing_is_kept():
    cut = minimum_cut(candidates_of(lambda x, w: tf.tanh(x @ w), SQUARE, SQUARE), 1.0)
    assert cut == Cut((), frozenset())


def test_a_cut_separates():
    """Whatever a cotangent reads is kept, free, or computable from what is."""

    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            y = x
            for _ in range(3):
                y = y + tf.nn.gelu(tf.nn.softmax(y @ w), approximate=True)
            loss = tf.reduce_mean(tf.square(y))
        return tape.gradient(loss, w)

    candidates = candidates_of(step, SQUARE, SQUARE)
    for tradeoff in (0.0, 1.0, 10.0):
        cut = minimum_cut(candidates, tradeoff)
        there = {v.id for v in cut.kept}
        for n in candidates.view.nodes:  # in order: inputs come first
            if n.id in cut.recomputed:
                for value in n.inputs:
                    root = value.storage
                    assert candidates.free[root.id] or root.id in there, (n, value)
                there.update(v.storage.id for v in n.outputs)
        assert set(candidates.needed) <= there
        assert not cut.recomputed & candidates.bans.keys()


def test_compiled_groups_make_recomputing_cheaper_and_keeping_dearer():
    candidates = candidates_of(chain_step, SQUARE, SQUARE, SQUARE)
    tanh = node(candidates.view, "Tanh")
    value = tanh.outputs[0]
    prices = candidates.prices
    apart = cost.recompute_price(tanh, value, False, prices)
    assert apart == pytest.approx(0.4 * SIZE)
    assert cost.recompute_price(tanh, value, True, prices) == pytest.approx(0.1 * SIZE)
    product = node(candidates.view, "mul")
    assert cost.keep_price(value, value.nbytes, 0, False, [product], prices) == SIZE
    assert cost.keep_price(value, value.nbytes, 0, True, [product], prices) == pytest.approx(
        1.04 * SIZE
    )
    # A matrix product reads it from memory in any case.
    readers = [product, nodes(candidates.view, "MatMul")[1]]
    assert cost.keep_price(value, value.nbytes, 0, True, readers, prices) == SIZE


def test_narrow_results_of_wide_inputs_cost_what_they_read():
    candidates = candidates_of(lambda x: x > 0.0, SQUARE)
    mask = node(candidates.view, "Greater")
    price = cost.recompute_price(mask, mask.outputs[0], False, candidates.prices)
    assert np.isclose(price, 0.03 * SIZE)
