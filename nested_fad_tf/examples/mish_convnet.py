"""A convolutional network with Mish and batch normalization on handwritten digits."""

from __future__ import annotations

from typing import Any

import keras

from nested_fad_tf.examples import digits
from nested_fad_tf.examples.example import Dataset, Example

_SIZE = 16
_WIDTHS = (32, 64, 128)


def _convolution(x: Any, width: int, strides: int = 1) -> Any:
    """Applies convolution, batch normalization and Mish."""
    x = keras.layers.Conv2D(width, 3, strides=strides, padding="same", use_bias=False)(x)
    # A few dozen steps are too few for the moving averages that momentum 0.99 makes.
    x = keras.layers.BatchNormalization(momentum=0.9)(x)
    return keras.layers.Activation("mish")(x)


def make_model(data: Dataset) -> keras.Model:
    """Returns the model: three stages of convolutions at halving resolution, mean pooling.

    Args:
        data: What it is to learn.
    """
    images = keras.Input(data.train_x.shape[1:])
    x = images
    for stage, width in enumerate(_WIDTHS):
        x = _convolution(x, width, strides=1 if stage == 0 else 2)
        x = _convolution(x, width)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.2)(x)
    return keras.Model(images, keras.layers.Dense(data.classes)(x), name="mish_convnet")


EXAMPLE = Example(
    load=lambda: digits.load_enlarged(_SIZE),
    make_model=make_model,
    batch_size=256,
    steps=50,
    learning_rate=1e-3,
)
