"""The examples by name; their modules are imported on demand: --help need not wait for Keras."""

from __future__ import annotations

import importlib

from nested_fad_tf.examples.example import Example

DEFAULT = "vit"

SUMMARIES = {
    "vit": "small vision transformer (exact GELU, dropout) on handwritten digits",
    "mish_convnet": "convolutional network with Mish and batch normalization on handwritten digits",
    "gpt": "GPT-style language model over characters of Python's own reference manual",
    "efficientnetv2b0": "keras.applications EfficientNetV2B0 from scratch on enlarged digits",
}


def load(name: str) -> Example:
    """Returns an example by name.

    Args:
        name: A key of `SUMMARIES`.
    """
    module = importlib.import_module(f"{__package__}.{name}")
    example: Example = module.EXAMPLE
    return example
