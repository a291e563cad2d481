"""The models of the benchmarks, by name.

Every entry builds a `Problem`: an unmodified public model with random weights, fixed random data of
static shape, Adam, and one training step as a plain Python function, so that the caller decides
what traces it.

Sizes are those of `bench.catalog`, if a name doesn't say others. Multilayer perceptrons: Dense(512)
layers with the activation and a Dense(10) head. Mixer: blocks of width 256 on images in patches of
4, token and channel width 256 and 512. Image models: keras.applications with their head for 1000
classes. Language models: layers of width 512, eight heads, vocabulary 8192, cross-entropy over all
positions through a head tied to the token embedding; feed-forward width 2048 (Llama: three matrices
of 1792, no dropout), dropout 0.1. ViT: layers of width 384, six heads, patches of 8, dropout 0.1.
Networks of `bench.elementwise`: 32 channels, or width 64. Losses are softmax cross-entropy on
integer labels.

With plain TensorFlow 2.21 on CPU a step of the perceptrons peaks between 100 and 330 MiB, the
others between 600 and 1270 MiB, above weights and optimizer slots.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from nested_fad_tf.bench import catalog, elementwise, peers, versions
from nested_fad_tf.bench.task import Task, normal

Step = Callable[..., tf.Tensor]
Gradients = Callable[..., tuple[tf.Tensor, list[tf.Tensor]]]
# Of features and labels from a generator, for sizes by name.
Builder = Callable[..., Task]

_CLASSES = 1000


@dataclass(frozen=True)
class Problem:
    """A model with data and a training step.

    Attributes:
        name: Its name in the registry.
        model: The Keras model; it maps the first input to logits.
        optimizer: Adam, its slots already created.
        inputs: Features and labels, tensors of static shape; arguments of `step` and `gradients`.
        step: Plain Python function of the inputs: one Adam step in training mode; returns the loss.
        gradients: Plain Python function of the inputs: loss and gradients, nothing applied.
    """

    name: str
    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    inputs: tuple[tf.Tensor, ...]
    step: Step
    gradients: Gradients


def names() -> list[str]:
    """Names of all models, small ones first."""
    return list(_BUILDERS)


def build(
    name: str, dtype: str = "float32", seed: int = 0, version: str = versions.PLAIN
) -> Problem:
    """Builds a model, its data and its training step.

    Args:
        name: One of `names()`; sizes that differ come behind it, as in "bert:batch=32:length=256".
        dtype: Type of weights and activations: "float32", or "float64" for tight checks of
            gradients.
        seed: Seed of weights, data and dropout; the same seed gives the same problem.
        version: Of the step that is to be made of it: peers change how the model computes.

    Returns:
        The problem.

    Raises:
        ValueError: If there is no model of that name, it has no such size, or the version is a peer
            that can do nothing for it.
        ImportError: If the model needs keras-hub and it is not installed.
    """
    kind, sizes = catalog.sizes(name)
    keras.utils.set_random_seed(seed)
    with _default_dtype(dtype):
        with peers.scope(version):
            task = _BUILDERS[kind](np.random.default_rng(seed), **sizes)
        return _problem(name, task, peers.forward(version, task.model), dtype)


@contextlib.contextmanager
def _default_dtype(dtype: str) -> Iterator[None]:
    """Keras' default type and policy inside the block."""
    old_dtype = keras.config.floatx()
    old_policy = keras.config.dtype_policy()
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx(old_dtype)
        keras.config.set_dtype_policy(old_policy)


def _problem(name: str, task: Task, forward: peers.Forward, dtype: str) -> Problem:
    """Adds the optimizer, the tensors and the step functions."""
    model = task.model
    optimizer = keras.optimizers.Adam(1e-4)
    optimizer.build(model.trainable_variables)
    features = tf.constant(task.features, dtype if task.features.dtype.kind == "f" else "int32")
    labels = tf.constant(task.labels, "int32")

    def gradients(features: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Loss and gradients of the trainable variables."""
        # Some layers ask for the default type when they are traced, not when they are built.
        with _default_dtype(dtype), tf.GradientTape() as tape:
            logits = forward(features)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses)
        return loss, tape.gradient(loss, model.trainable_variables)

    def step(features: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """One Adam step; returns the loss."""
        loss, grads = gradients(features, labels)
        optimizer.apply_gradients(zip(grads, model.trainable_variables, strict=True))
        return loss

    return Problem(name, model, optimizer, (features, labels), step, gradients)


# --- Multilayer perceptrons -----------------------------------------------------------------------


def _mlp(activation: Any) -> Builder:
    """Builder of Dense(512) layers with an activation."""

    def builder(rng: np.random.Generator, batch: int, depth: int) -> Task:
        width, classes = 512, 10
        layers: list[Any] = [keras.Input((width,), batch_size=batch)]
        for _ in range(depth):
            layers += [keras.layers.Dense(width), keras.layers.Activation(activation)]
        model = keras.Sequential([*layers, keras.layers.Dense(classes)])
        return Task(model, normal(rng, batch, width), rng.integers(0, classes, batch))

    return builder


def _gelu_tanh(x: Any) -> Any:
    return keras.activations.gelu(x, approximate=True)


def _gelu(x: Any) -> Any:
    return keras.activations.gelu(x, approximate=False)


# What Keras has to be told to copy a model that uses them.
CUSTOM_OBJECTS: dict[str, Callable[[Any], Any]] = {f.__name__: f for f in (_gelu, _gelu_tanh)}


# --- Images ---------------------------------------------------------------------------------------


def _mixer(rng: np.random.Generator, batch: int, depth: int, size: int) -> Task:
    """MLP-Mixer (arXiv 2105.01601): blocks of width 256."""
    patch, width, token_width, channel_width = 4, 256, 256, 512
    layers = keras.layers
    images = keras.Input((size, size, 3), batch_size=batch)
    x = layers.Conv2D(width, patch, strides=patch)(images)
    tokens = (size // patch) ** 2
    x = layers.Reshape((tokens, width))(x)
    for _ in range(depth):
        y = layers.Permute((2, 1))(layers.LayerNormalization()(x))
        y = layers.Dense(tokens)(layers.Dense(token_width, activation=_gelu)(y))
        x = layers.Add()([x, layers.Permute((2, 1))(y)])
        y = layers.LayerNormalization()(x)
        y = layers.Dense(width)(layers.Dense(channel_width, activation=_gelu)(y))
        x = layers.Add()([x, y])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    model = keras.Model(images, layers.Dense(_CLASSES)(x))
    return Task(model, normal(rng, batch, size, size, 3), rng.integers(0, _CLASSES, batch))


def _application(name: str) -> Builder:
    """Builder of a model of keras.applications with random weights."""

    def builder(rng: np.random.Generator, batch: int, size: int) -> Task:
        images = keras.Input((size, size, 3), batch_size=batch)
        model = getattr(keras.applications, name)(
            weights=None, input_tensor=images, classes=_CLASSES, classifier_activation=None
        )
        pixels = rng.uniform(0, 255, (batch, size, size, 3)).astype("float32")
        return Task(model, pixels, rng.integers(0, _CLASSES, batch))

    return builder


def _vit(rng: np.random.Generator, batch: int, depth: int, size: int) -> Task:
    """Vision transformer of keras_hub: layers of width 384."""
    backbone = _keras_hub().models.ViTBackbone(
        image_shape=(size, size, 3),
        patch_size=8,
        num_layers=depth,
        num_heads=6,
        hidden_dim=384,
        mlp_dim=1536,
        dropout_rate=0.1,
    )
    images = keras.Input((size, size, 3), batch_size=batch)
    tokens = backbone(images)
    model = keras.Model(images, keras.layers.Dense(_CLASSES)(tokens[:, 0]))
    return Task(model, normal(rng, batch, size, size, 3), rng.integers(0, _CLASSES, batch))


# --- Language -------------------------------------------------------------------------------------

_VOCABULARY = 8192


def _language(make: Callable[..., Any]) -> Builder:
    """Builder of a keras_hub backbone under a head tied to its token embedding."""

    def builder(rng: np.random.Generator, batch: int, depth: int, length: int) -> Task:
        backbone = make(_keras_hub().models, depth, length)
        ids = keras.Input((length,), batch_size=batch, dtype="int32")
        rest = {
            name: keras.ops.zeros_like(ids) if name == "segment_ids" else keras.ops.ones_like(ids)
            for name in backbone.input
            if name != "token_ids"
        }
        hidden = backbone({"token_ids": ids, **rest})
        if isinstance(hidden, dict):
            hidden = hidden["sequence_output"]
        logits = backbone.token_embedding(hidden, reverse=True)
        shape = (batch, length)
        return Task(
            keras.Model(ids, logits),
            rng.integers(0, _VOCABULARY, shape),
            rng.integers(0, _VOCABULARY, shape),
        )

    return builder


def _dense(name: str, models: Any, depth: int, length: int) -> Any:
    """A backbone with dense feed-forward layers: BERT and GPT-2 take the same sizes."""
    return getattr(models, name)(
        vocabulary_size=_VOCABULARY,
        num_layers=depth,
        num_heads=8,
        hidden_dim=512,
        intermediate_dim=2048,
        dropout=0.1,
        max_sequence_length=length,
    )


def _llama(models: Any, depth: int, _: int) -> Any:
    return models.LlamaBackbone(
        vocabulary_size=_VOCABULARY,
        num_layers=depth,
        num_query_heads=8,
        num_key_value_heads=8,
        hidden_dim=512,
        intermediate_dim=1792,
        tie_word_embeddings=True,
    )


def _keras_hub() -> Any:
    try:
        import keras_hub
    except ImportError as error:
        raise ImportError(
            "this model comes from keras-hub: pip install nested-fad-tf[bench]"
        ) from error
    return keras_hub


_BUILDERS: dict[str, Builder] = {
    "linear_mlp": _mlp("linear"),
    "relu_mlp": _mlp("relu"),
    "elu_mlp": _mlp("elu"),
    "selu_mlp": _mlp("selu"),
    "mish_mlp": _mlp("mish"),
    "gelu_mlp": _mlp(_gelu),
    "gelu_tanh_mlp": _mlp(_gelu_tanh),
    "swish_mlp": _mlp("swish"),
    "mish_convnet": partial(elementwise.convnet, "mish"),
    "gelu_convnet": partial(elementwise.convnet, _gelu),
    "depthwise_convnet": partial(elementwise.depthwise_convnet, _gelu),
    "long_transformer": partial(elementwise.long_transformer, _gelu),
    "mixer": _mixer,
    "efficientnetv2b0": _application("EfficientNetV2B0"),
    "mobilenetv3small": _application("MobileNetV3Small"),
    "convnexttiny": _application("ConvNeXtTiny"),
    "resnet50": _application("ResNet50"),
    "resnet101": _application("ResNet101"),
    "bert": _language(partial(_dense, "BertBackbone")),
    "gpt2": _language(partial(_dense, "GPT2Backbone")),
    "llama": _language(_llama),
    "vit": _vit,
}
