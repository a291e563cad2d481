"""The block that the vision transformer and the language model share."""

from __future__ import annotations

from typing import Any

import keras


def block(x: Any, *, heads: int, dropout: float, causal: bool = False) -> Any:
    """Applies attention and a two-layer perceptron with exact GELU, each on a residual branch.

    Args:
        x: A symbolic Keras tensor [batch, positions, width].
        heads: Number of attention heads; divides the width.
        dropout: Share of activations dropped on each branch.
        causal: Whether a position sees only those before it.
    """
    width = x.shape[-1]
    y = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    attention = keras.layers.MultiHeadAttention(heads, width // heads, dropout=dropout)
    y = attention(y, y, use_causal_mask=causal)
    x = keras.layers.Add()([x, keras.layers.Dropout(dropout)(y)])
    y = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    y = keras.layers.Dense(4 * width, activation="gelu")(y)
    y = keras.layers.Dropout(dropout)(y)
    y = keras.layers.Dense(width)(y)
    return keras.layers.Add()([x, keras.layers.Dropout(dropout)(y)])


class Positions(keras.layers.Layer):
    """Adds a learned vector to every position."""

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes one vector for each position of the input."""
        self.table = self.add_weight(
            shape=input_shape[1:], initializer=keras.initializers.RandomNormal(stddev=0.02)
        )

    def call(self, inputs: Any) -> Any:
        """Adds the vectors to a batch [batch, positions, width]."""
        return inputs + self.table
