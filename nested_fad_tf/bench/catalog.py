"""What can be benchmarked, by name; --help reads it without waiting for TensorFlow."""

from __future__ import annotations

from nested_fad_tf.bench.settings import split

_PERCEPTRON = {"batch": 4096, "depth": 8}
_CONVNET = {"batch": 64, "depth": 8, "size": 32}
_LANGUAGE = {"batch": 16, "depth": 6, "length": 128}

# Small models first, with their sizes: examples in a batch, layers or blocks, pixels of a side of
# the images, tokens of a sequence. `nested_fad_tf.bench.models` builds them.
MODELS: dict[str, dict[str, int]] = {
    "linear_mlp": _PERCEPTRON,
    "relu_mlp": _PERCEPTRON,
    "elu_mlp": _PERCEPTRON,
    "selu_mlp": _PERCEPTRON,
    "mish_mlp": _PERCEPTRON,
    "gelu_mlp": _PERCEPTRON,
    "gelu_tanh_mlp": _PERCEPTRON,
    "swish_mlp": _PERCEPTRON,
    "mish_convnet": _CONVNET,
    "gelu_convnet": _CONVNET,
    "depthwise_convnet": _CONVNET,
    "long_transformer": {"batch": 8, "depth": 6, "length": 512},
    "mixer": {"batch": 16, "depth": 8, "size": 64},
    "efficientnetv2b0": {"batch": 32, "size": 160},
    "mobilenetv3small": {"batch": 64, "size": 160},
    "convnexttiny": {"batch": 16, "size": 128},
    "resnet50": {"batch": 32, "size": 128},
    "resnet101": {"batch": 16, "size": 128},
    "bert": _LANGUAGE,
    "gpt2": _LANGUAGE,
    "llama": _LANGUAGE,
    "vit": {"batch": 16, "depth": 6, "size": 128},
}


def sizes(model: str) -> tuple[str, dict[str, int]]:
    """The sizes of a model.

    Args:
        model: A name of `MODELS`, with sizes that differ behind it or not.

    Returns:
        The name alone, and all sizes.

    Raises:
        ValueError: If there is no such model, it has no such size, or a size isn't positive.

    Examples:
        >>> sizes("bert:batch=32")
        ('bert', {'batch': 32, 'depth': 6, 'length': 128})
    """
    name, given = split(model)
    if name not in MODELS:
        raise ValueError(f"no model named {name!r}; there are: {', '.join(MODELS)}")
    usual = MODELS[name]
    for size, value in given.items():
        if size not in usual:
            raise ValueError(f"{model!r}: {name} has no {size!r}; it has: {', '.join(usual)}")
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{model!r}: {size} must be a positive number, not {value!r}")
    return name, {**usual, **given}


def with_batch(model: str, batch: int) -> str:
    """The same model with another batch size.

    Args:
        model: A name as `sizes` reads it.
        batch: Examples in a batch.

    Returns:
        Its name.

    Examples:
        >>> with_batch("mixer:depth=4", 24)
        'mixer:batch=24:depth=4:size=64'
    """
    name, usual = sizes(model)
    return ":".join([name, *(f"{size}={n}" for size, n in {**usual, "batch": batch}.items())])


# Other ways to save memory. `nested_fad_tf.bench.peers` applies them.
PEERS = {
    "recompute_activations": "tf.recompute_grad around every activation function",
    "recompute_blocks": "tf.recompute_grad around every block of layers",
    "remat_activations": "keras.RematScope(mode='activations')",
    "remat_full": "keras.RematScope(mode='full')",
    "jit_compile": "tf.function(jit_compile=True)",
}

# What can be measured. `nested_fad_tf.bench.command` makes a table of each.
WHAT = ("memory", "time", "gradients", "losses", "fit")
# Of these, what peers can be measured by.
WHAT_OF_PEERS = ("memory", "time", "gradients")

# Types of weights and activations in which gradients are compared.
DTYPES = ("float32", "float64")
