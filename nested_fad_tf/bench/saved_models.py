"""SavedModels of public models, as their users save them, with data to fine-tune them on."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

_CLASSES = 10


def _convnext(folder: pathlib.Path, small: bool) -> np.ndarray:
    """ConvNeXtTiny of keras.applications, exported by Keras; images of an unknown batch size."""
    size = 32 if small else 128
    model = keras.applications.ConvNeXtTiny(
        weights=None, classes=_CLASSES, input_shape=(size, size, 3), classifier_activation=None
    )
    _export(model, folder, tf.TensorSpec((None, size, size, 3), tf.float32))
    return np.random.default_rng(0).uniform(0, 255, (4 if small else 16, size, size, 3))


def _bert(folder: pathlib.Path, small: bool) -> np.ndarray:
    """BERT of keras_hub under a classifier, with dropout."""
    import keras_hub

    width, length, vocabulary = (64, 16, 100) if small else (512, 128, 8192)
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=vocabulary,
        num_layers=2 if small else 6,
        num_heads=width // 32,
        hidden_dim=width,
        intermediate_dim=4 * width,
        dropout=0.1,
        max_sequence_length=length,
    )
    ids = keras.Input((length,), dtype="int32")
    zeros = keras.ops.zeros_like(ids)
    inputs = {"token_ids": ids, "segment_ids": zeros, "padding_mask": zeros + 1}
    logits = keras.layers.Dense(_CLASSES)(backbone(inputs)["pooled_output"])
    _export(keras.Model(ids, logits), folder, tf.TensorSpec((None, length), tf.int32))
    return np.random.default_rng(0).integers(0, vocabulary, (16, length))


def _lstm(folder: pathlib.Path, small: bool) -> np.ndarray:
    """A text classifier from strings: vocabulary lookup, embedding, LSTM, dense with GELU."""
    words = [f"word{i}" for i in range(200)]
    width, length = (32, 12) if small else (256, 100)
    text = keras.layers.TextVectorization(output_sequence_length=length, vocabulary=words)
    inputs = keras.Input((), dtype="string")
    h = keras.layers.Embedding(len(words) + 2, width)(text(inputs))
    h = keras.layers.LSTM(width, return_sequences=True)(h)
    h = keras.layers.Dropout(0.1, seed=1)(keras.layers.Dense(4 * width, activation="gelu")(h))
    logits = keras.layers.Dense(_CLASSES)(keras.layers.GlobalAveragePooling1D()(h))
    _export(keras.Model(inputs, logits), folder, tf.TensorSpec((None,), tf.string))
    rng = np.random.default_rng(0)
    return np.array([" ".join(rng.choice(words, length)) for _ in range(8 if small else 64)])


def _export(model: Any, folder: pathlib.Path, spec: tf.TensorSpec) -> None:
    archive = keras.export.ExportArchive()
    archive.track(model)
    for name, training in (("serve", False), ("train", True)):
        archive.add_endpoint(name, _call(model, training), input_signature=[spec])
    archive.add_variable_collection("tuned", model.trainable_variables)
    archive.write_out(str(folder), verbose=False)


def _call(model: Any, training: bool) -> Callable[[tf.Tensor], tf.Tensor]:
    def call(x: tf.Tensor) -> tf.Tensor:
        return model(x, training=training)

    return call


class _Tagger(tf.Module):
    """Words to classes: a table from an asset file, an MLP with mish, two signatures."""

    def __init__(self, vocabulary: pathlib.Path, width: int) -> None:
        super().__init__()
        lines = tf.lookup.TextFileInitializer(
            str(vocabulary),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        )
        self.table = tf.lookup.StaticVocabularyTable(lines, num_oov_buckets=1)
        seeds = [(width, i) for i in range(8)]
        self.embedding = tf.Variable(tf.random.stateless_normal((101, width), (0, 0)))
        scale = width**-0.5
        self.weights = [
            tf.Variable(scale * tf.random.stateless_normal((width, width), s)) for s in seeds
        ]
        self.head = tf.Variable(0.1 * tf.random.stateless_normal((width, _CLASSES), (1, 1)))
        self.tuned = [self.embedding, *self.weights, self.head]

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
    def embed(self, words: tf.Tensor) -> tf.Tensor:
        """Words to vectors."""
        h = tf.gather(self.embedding, self.table.lookup(words))
        for weight in self.weights:
            z = h @ weight
            h = z * tf.tanh(tf.math.softplus(z))
        return h

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
    def train(self, words: tf.Tensor) -> tf.Tensor:
        """Words to logits."""
        return self.embed(words) @ self.head


def _module(folder: pathlib.Path, small: bool) -> np.ndarray:
    """A tf.Module with a table, an asset and two signatures."""
    words = [f"word{i}" for i in range(100)]
    vocabulary = folder.with_name(folder.name + "_words.txt")
    vocabulary.write_text("\n".join(words) + "\n", encoding="utf-8")
    module = _Tagger(vocabulary, 32 if small else 512)
    tf.saved_model.save(module, str(folder), {"embed": module.embed, "classify": module.train})
    return np.random.default_rng(0).choice([*words, "unknown"], 16 if small else 4096)


MODELS: dict[str, Callable[[pathlib.Path, bool], np.ndarray]] = {
    "convnexttiny": _convnext,
    "bert": _bert,
    "module": _module,
    "lstm": _lstm,
}


def save(name: str, folder: pathlib.Path, data: pathlib.Path, *, small: bool = False) -> None:
    """Saves a model, and data to fine-tune it on.

    Args:
        name: A name of `MODELS`.
        folder: Where the SavedModel is to be.
        data: The .npz file to write.
        small: Whether to make it small enough for a test.
    """
    keras.utils.set_random_seed(0)
    x = MODELS[name](folder, small)
    if x.dtype.kind in "fi":
        x = x.astype("float32" if x.dtype.kind == "f" else "int32")
    labels = np.random.default_rng(1).integers(0, _CLASSES, len(x)).astype("int32")
    np.savez(data, x=x.astype("S") if x.dtype.kind == "U" else x, labels=labels)
