"""A small vision transformer on handwritten digits."""

from __future__ import annotations

import keras

from nested_fad_tf.examples import digits, transformer
from nested_fad_tf.examples.example import Dataset, Example

_WIDTH = 64
_BLOCKS = 3
_DROPOUT = 0.1


def make_model(data: Dataset) -> keras.Model:
    """Returns the model: overlapping 2 by 2 patches, three transformer blocks, mean pooling.

    Args:
        data: What it is to learn.
    """
    images = keras.Input(data.train_x.shape[1:])
    patches = keras.layers.Conv2D(_WIDTH, 2)(images)
    x = keras.layers.Reshape((-1, _WIDTH))(patches)
    x = keras.layers.Dropout(_DROPOUT)(transformer.Positions()(x))
    for _ in range(_BLOCKS):
        x = transformer.block(x, heads=4, dropout=_DROPOUT)
    x = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(images, keras.layers.Dense(data.classes)(x), name="vit")


EXAMPLE = Example(
    load=digits.load,
    make_model=make_model,
    batch_size=128,
    steps=60,
    learning_rate=2e-3,
)
