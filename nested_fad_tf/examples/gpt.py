"""A GPT-style language model over the characters of Python's reference manual."""

from __future__ import annotations

import keras

from nested_fad_tf.examples import manual, transformer
from nested_fad_tf.examples.example import Dataset, Example

_LENGTH = 128
_WIDTH = 128
_BLOCKS = 3
_DROPOUT = 0.1


def make_model(data: Dataset) -> keras.Model:
    """Returns the model: embeddings, three causal transformer blocks, logits of the next character.

    Args:
        data: What it is to learn.
    """
    characters = keras.Input((data.train_x.shape[1],), dtype="int32")
    x = keras.layers.Embedding(data.classes, _WIDTH)(characters)
    x = keras.layers.Dropout(_DROPOUT)(transformer.Positions()(x))
    for _ in range(_BLOCKS):
        x = transformer.block(x, heads=4, dropout=_DROPOUT, causal=True)
    x = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    return keras.Model(characters, keras.layers.Dense(data.classes)(x), name="gpt")


EXAMPLE = Example(
    load=lambda: manual.load(_LENGTH),
    make_model=make_model,
    batch_size=24,
    steps=100,
    learning_rate=2e-3,
)
