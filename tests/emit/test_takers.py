"""Matrix products and convolutions whose gradients compute an input again."""

from __future__ import annotations

import pytest
import tensorflow as tf
from taking import BATCH, CASES, LENGTH, OPTIONS, WEIGHTS, WIDTH, W, X, of_two
from traced import assert_same, mish

import nested_fad_tf as nfad


def taken(function, x, dynamic, options=OPTIONS):
    """The function, rewritten so that copies are taken, for any batch size or this one's."""
    spec = tf.TensorSpec([None if dynamic else x.shape[0], *x.shape[1:]])
    rewritten = nfad.rewrite(function, spec, options=options.replace(nominal_size=BATCH * LENGTH))
    ops = rewritten.get_concrete_function(spec).graph.get_operations()
    carriers = [op for op in ops if op.type == "IdentityN" and "nested_fad/" in op.name]
    return rewritten, len(carriers)


def gradients(function, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_mean(tf.square(function(x)))
    return loss, tape.gradient(loss, [*WEIGHTS, x], unconnected_gradients="zero")


@pytest.mark.parametrize("fuse", ["ops", "xla"])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(("function", "x"), CASES, ids=lambda c: getattr(c, "__name__", ""))
def test_gradients(function, x, dynamic, fuse):
    rewritten, carriers = taken(function, x, dynamic, OPTIONS.replace(fuse=fuse))
    assert_same(gradients(rewritten, x), gradients(tf.function(function), x))
    report = rewritten.reports[-1]
    assert carriers > len(report.chains), "no op takes a copy"
    assert report.kept_bytes_after < report.kept_bytes_before


@pytest.mark.parametrize(("function", "x"), CASES, ids=lambda c: getattr(c, "__name__", ""))
def test_second_derivatives(function, x):
    def penalty(called):
        with tf.GradientTape() as tape:
            tape.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                loss = tf.reduce_mean(tf.square(called(x)))
            slope = tf.reduce_sum(tf.square(inner.gradient(loss, x)))
        return tape.gradient(slope, [*WEIGHTS, x], unconnected_gradients="zero")

    rewritten, _ = taken(function, x, False)
    assert_same(penalty(rewritten), penalty(tf.function(function)), rtol=2e-5)


def test_inside_loops_and_branches():
    def function(x):
        h = tf.reshape(x, [-1, WIDTH])
        for _ in tf.range(3):
            h = mish(h @ W[0]) @ W[1]
            h = tf.cond(tf.reduce_sum(h) > 0, lambda h=h: mish(h @ W[2]) @ W[3], lambda h=h: h + 1)
        return h

    expected = gradients(tf.function(function), X)
    with nfad.rewriting(OPTIONS) as session:
        rewritten = tf.function(function)
        assert_same(gradients(rewritten, X), expected)
    assert sum(report.changed for report in session.reports) >= 2


def hands_over(function, x):
    """The bytes of what the forward function hands to the backward function."""
    forward, _ = function._delayed_rewrite_functions.forward_backward()
    return sum(t.dtype.size * t.shape.num_elements() for t in forward.graph.outputs)


def test_less_is_handed_over():
    def layers(x):
        h = tf.reshape(x, [-1, WIDTH])
        for w in W:
            h = mish(h @ w)
        return h @ W[0]

    plain = tf.function(layers).get_concrete_function(X)
    copies = nfad.rewrite(layers, X, options=OPTIONS).get_concrete_function(X)
    kept = nfad.rewrite(layers, X, options=OPTIONS.replace(strategy="forward_ad"))
    sizes = [hands_over(f, X) for f in (copies, kept.get_concrete_function(X), plain)]
    assert sizes[0] < sizes[1] < sizes[2]
    size = BATCH * LENGTH * WIDTH * 4
    # Each layer keeps its product, the first one the argument; and there are the weights.
    assert sizes[0] - sum(w.shape.num_elements() * 4 for w in [*W, W[0]]) <= (len(W) + 2.1) * size


def test_both_factors_are_left_out():
    rewritten = nfad.rewrite(of_two, X, options=OPTIONS)
    # The argument, and the products before mish and sin.
    weights = 2 * WIDTH * WIDTH
    given = hands_over(rewritten.get_concrete_function(X), X) / 4 - weights
    assert given <= 3.1 * BATCH * LENGTH * WIDTH + BATCH * LENGTH * LENGTH


@pytest.mark.parametrize("why", ["returned", "read by others", "too dear"])
def test_results_that_stay(why):
    def function(x):
        h = mish(tf.reshape(x, [-1, WIDTH]) @ W[0])
        y = h @ W[1]
        if why == "returned":
            return y, h
        if why == "read by others":
            return y, tf.reduce_max(h, 1)
        return [h @ w for w in W]

    options = OPTIONS.replace(strategy="auto")
    _, carriers = taken(lambda x: function(x)[0], X, False, options)
    assert carriers == 2 or why == "too dear"
    whole = nfad.rewrite(function, X, options=options)
    ops = whole.get_concrete_function(X).graph.get_operations()
    carriers = [op for op in ops if op.type == "IdentityN" and "nested_fad/" in op.name]
    assert len(carriers) <= 1
