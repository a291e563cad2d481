"""Networks in which element-wise work matters, beside the perceptrons of `bench.models`.

What arXiv 2209.10778 is about: activations of many ops between layers that are narrow enough that
activations make up much of a step. No dropout, so that peers that draw random numbers again can be
compared.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from nested_fad_tf.bench.task import Task, normal

layers = keras.layers

_CHANNELS, _WIDTH, _CLASSES = 32, 64, 10


def convnet(activation: Any, rng: np.random.Generator, batch: int, depth: int, size: int) -> Task:
    """3x3 convolutions with an activation each.

    Args:
        activation: The activation, as Keras takes it.
        rng: Where features and labels come from.
        batch: Images.
        depth: How many convolutions.
        size: Pixels of a side.

    Returns:
        The task.
    """
    images = x = keras.Input((size, size, 3), batch_size=batch)
    for _ in range(depth):
        x = layers.Conv2D(_CHANNELS, 3, padding="same")(x)
        x = layers.Activation(activation)(x)
    return _classifier(rng, images, layers.GlobalAveragePooling2D()(x))


def depthwise_convnet(
    activation: Any, rng: np.random.Generator, batch: int, depth: int, size: int
) -> Task:
    """Blocks of a depthwise and a 1x1 convolution, an activation behind each.

    Args:
        activation: The activation, as Keras takes it.
        rng: Where features and labels come from.
        batch: Images.
        depth: How many blocks.
        size: Pixels of a side.

    Returns:
        The task.
    """
    images = x = keras.Input((size, size, 3), batch_size=batch)
    x = layers.Conv2D(_CHANNELS, 3, padding="same")(x)
    for _ in range(depth):
        for convolution in (layers.DepthwiseConv2D(3, padding="same"), layers.Conv2D(_CHANNELS, 1)):
            x = layers.Activation(activation)(convolution(x))
    return _classifier(rng, images, layers.GlobalAveragePooling2D()(x))


def long_transformer(
    activation: Any, rng: np.random.Generator, batch: int, depth: int, length: int
) -> Task:
    """Pre-norm layers of width 64 with two heads.

    Args:
        activation: The activation, as Keras takes it.
        rng: Where features and labels come from.
        batch: Sequences.
        depth: How many layers.
        length: Tokens of each.

    Returns:
        The task.
    """
    tokens = x = keras.Input((length, _WIDTH), batch_size=batch)
    for _ in range(depth):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(2, _WIDTH // 2)(y, y)])
        y = layers.Dense(4 * _WIDTH)(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(_WIDTH)(layers.Activation(activation)(y))])
    x = layers.LayerNormalization()(x)
    return _classifier(rng, tokens, layers.GlobalAveragePooling1D()(x))


def _classifier(rng: np.random.Generator, inputs: Any, features: Any) -> Task:
    model = keras.Model(inputs, layers.Dense(_CLASSES)(features))
    labels = rng.integers(0, _CLASSES, inputs.shape[0])
    return Task(model, normal(rng, *inputs.shape), labels)
