"""Functions whose matrix products and convolutions may compute an input again."""

from __future__ import annotations

import tensorflow as tf
from traced import mish, numbers

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
    """Matrix products of rows."""
    rows = tf.reshape(x, [-1, WIDTH])
    return mish(rows @ W[0]) @ W[1]


def reshaped(x):
    """The product reads the result in another shape."""
    h = mish(tf.matmul(x, W[0]))
    return tf.reshape(tf.matmul(tf.reshape(h, [-1, WIDTH]), W[1]), tf.shape(x))


def transposed(x):
    """Products with transposed factors."""
    rows = tf.reshape(x, [-1, WIDTH])
    h = mish(tf.matmul(W[0], rows, transpose_a=True, transpose_b=True))
    return tf.matmul(h, W[1], transpose_a=True) + tf.matmul(h, h, transpose_a=True)[:, :WIDTH]


def attention(x):
    """A result that three products read."""
    h = normalized(tf.matmul(x, W[0]))
    q, k, v = (tf.matmul(h, w) for w in W[1:])
    return tf.matmul(tf.nn.softmax(tf.matmul(q, k, transpose_b=True)), v)


def einsum(x):
    """Products written as einsum."""
    h = mish(tf.einsum("blw,wv->blv", x, W[0]))
    return tf.einsum("blw,wv->bvl", h, W[1])


def with_itself(x):
    """A product of a result with itself."""
    h = mish(tf.matmul(x, W[0]))
    return tf.matmul(h, h, transpose_b=True)


def of_two(x):
    """A product that computes both factors again."""
    return tf.matmul(mish(tf.matmul(x, W[0])), tf.sin(tf.matmul(x, W[1])), transpose_b=True)


def frozen(x):
    """Products with a constant."""
    return tf.matmul(mish(tf.matmul(mish(tf.matmul(x, FROZEN)), W[0])), FROZEN)


def convolution(x):
    """Convolutions, one of them depthwise."""
    y = tf.nn.conv2d(x, KERNEL, 1, "SAME")
    y = tf.nn.depthwise_conv2d(mish(y), DEPTHWISE, [1, 2, 2, 1], "VALID")
    return tf.nn.conv2d(mish(y), KERNEL, 1, [[0, 0], [1, 0], [0, 1], [0, 0]])


def video(x):
    """Convolutions of three dimensions."""
    return tf.nn.conv3d(mish(tf.nn.conv3d(x, CUBE, [1] * 5, "SAME")), CUBE, [1] * 5, "VALID")


CASES = [
    (dense, X), (reshaped, X), (transposed, X), (attention, X), (einsum, X), (with_itself, X),
    (of_two, X), (frozen, X), (convolution, IMAGES), (video, VIDEOS),
]  # fmt: skip
WEIGHTS = [*W, KERNEL, DEPTHWISE, CUBE]
