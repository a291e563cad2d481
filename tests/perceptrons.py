"""Perceptrons of element-wise chains, and how far approximate gradients are from the true ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from traced import mish, numbers

BATCH, WIDTH, DEPTH = 512, 256, 6
UNIT = BATCH * WIDTH * 4  # bytes of an activation
ACTIVATIONS = {"gelu": tf.nn.gelu, "mish": mish, "silu": tf.nn.silu}
LOSSY = ["bfloat16", "int8", "int4", "int2"]


def step_of(activation: Callable[[tf.Tensor], tf.Tensor]) -> Callable[..., Any]:
    """A step of layers with an activation each: the loss, and the gradients of the weights."""

    def step(x: tf.Tensor, *weights: tf.Tensor) -> tuple[tf.Tensor, Sequence[tf.Tensor]]:
        with tf.GradientTape() as tape:
            tape.watch(weights)
            y = x
            for w in weights:
                y = activation(y @ w)
            loss = tf.reduce_mean(tf.matmul(y, weights[0], transpose_b=True) * x)
        return loss, tape.gradient(loss, weights)

    return step


def arguments(batch: int = BATCH, dtype: tf.DType = tf.float32) -> list[tf.Tensor]:
    """What the step takes: a batch, and weights that keep activations about as large."""
    weights = [numbers(WIDTH, WIDTH, seed=i, scale=1.5 * WIDTH**-0.5) for i in range(DEPTH)]
    return [tf.cast(t, dtype) for t in (numbers(batch, WIDTH, seed=99), *weights)]


def error_and_cosine(actual: Sequence[Any], expected: Sequence[Any]) -> tuple[float, float]:
    """How far all gradients together are off, as a part of their norm; and the cosine."""
    a, e = _flat(actual), _flat(expected)
    norm = np.linalg.norm
    return norm(a - e) / norm(e), a @ e / (norm(a) * norm(e))


def relative_error(actual: Sequence[Any], expected: Sequence[Any]) -> float:
    """How far all gradients together are off, as a part of their norm."""
    return error_and_cosine(actual, expected)[0]


def _flat(gradients: Sequence[Any]) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(g, np.float64)) for g in gradients])
