"""Matrix products and convolutions whose gradients compute an input again."""

from __future__ import annotations

import pytest
import tensorflow as tf
from traced import assert_same, mish, numbers

import nested_fad_tf as nfad

BATCH, LENGTH, WIDTH, SIDE = 4, 16, 32, 12
OPTIONS = nfad.Options(on_error="raise", fuse="ops", min_bytes=1024, strategy="recompute")
X = numbers(BATCH, LENGTH, WIDTH, seed=1)
IMAGES = numbers(BATCH, SIDE, SIDE, 8, seed=2)
VIDEOS = numbers(BATCH, 3, 6, 6, 8, seed=3)
W = [tf.Variable(numbers(WIDTH, WIDTH, seed=i, scale=0.2)) for i in range(4)]
KERNEL = tf.Variable(numbers(3, 3, 8, 8, seed=5, scale=0.1))
DEPTHWISE = tf.Variable(numbers(3, 3, 8, 1, seed=6, scale=0.3))
CUBE = tf.Variable(numbers(2, 3, 3, 8, 8, seed=7, scale=0.1))
FROZEN = numbers(WIDTH, WIDTH, seed=8, scale=0.2)


def normalized(x):
    """Cheap enough to be computed again for several readers."""
    mean, variance = tf.nn.moments(x, -1, keepdims=True)
    return (x - mean) * tf.math.rsqrt(variance + 1e-3) * 1.5 + 0.1


def dense(x):
    rows = tf.reshape(x, [-1, WIDTH])
    return mish(rows @ W[0]) @ W[1]


def reshaped(x):
    h = mish(tf.matmul(x, W[0]))
    return tf.reshape(tf.matmul(tf.reshape(h, [-1, WIDTH]), W[1]), tf.shape(x))


def transposed(x):
    rows = tf.reshape(x, [-1, WIDTH])
    h = mish(tf.matmul(W[0], rows, transpose_a=True, transpose_b=True))
    return tf.matmul(h, W[1], transpose_a=True) + tf.matmul(h, h, transpose_a=True)[:, :WIDTH]


def attention(x):
    h = normalized(tf.matmul(x, W[0]))
    q, k, v = (tf.matmul(h, w) for w in W[1:])
    return tf.matmul(tf.nn.softmax(tf.matmul(q, k, transpose_b=True)), v)


def einsum(x):
    h = mish(tf.einsum("blw,wv->blv", x, W[0]))
    return tf.einsum("blw,wv->bvl", h, W[1])


def with_itself(x):
    h = mish(tf.matmul(x, W[0]))
    return tf.matmul(h, h, transpose_b=True)


def frozen(x):
    return tf.matmul(mish(tf.matmul(mish(tf.matmul(x, FROZEN)), W[0])), FROZEN)


def convolution(x):
    y = tf.nn.conv2d(x, KERNEL, 1, "SAME")
    y = tf.nn.depthwise_conv2d(mish(y), DEPTHWISE, [1, 2, 2, 1], "VALID")
    return tf.nn.conv2d(mish(y), KERNEL, 1, [[0, 0], [1, 0], [0, 1], [0, 0]])


def video(x):
    return tf.nn.conv3d(mish(tf.nn.conv3d(x, CUBE, [1] * 5, "SAME")), CUBE, [1] * 5, "VALID")


CASES = [
    (dense, X), (reshaped, X), (transposed, X), (attention, X), (einsum, X), (with_itself, X),
    (frozen, X), (convolution, IMAGES), (video, VIDEOS),
]  # fmt: skip
WEIGHTS = [*W, KERNEL, DEPTHWISE, CUBE]


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
