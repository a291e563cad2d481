"""Other ways to save activation memory, applied to the benchmarks' models as their users would.

Nothing here is of this package: `tf.recompute_grad`, Keras' RematScope and XLA, each on the same
model, data and seeds. What a peer can't do is a `Refusal`, not a failure of the benchmark. Keras
tells of layers inside of layers by private API only; checked on 2.21.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from nested_fad_tf.bench import blocks

Forward = Callable[[tf.Tensor], tf.Tensor]

# What TensorFlow and Keras raise where they do not support something.
_REFUSALS = (ValueError, TypeError, NotImplementedError, tf.errors.OpError)
_COLOURS = re.compile(r"\x1b\[\d*m")


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A row of the table of what doesn't run.

    Attributes:
        model: The model's name.
        strategy: The peer's.
        measured: What was to be measured.
        reason: What TensorFlow or Keras said, on one line.
    """

    model: str
    strategy: str
    measured: str
    reason: str


class RefusedError(RuntimeError):
    """A peer doesn't run.

    Attributes:
        row: What and why.
    """

    def __init__(self, row: Refusal) -> None:
        """An error for a row."""
        super().__init__(f"{row.strategy} on {row.model}: {row.reason}")
        self.row = row


@contextlib.contextmanager
def refusing(model: str, version: str, measured: str) -> Iterator[None]:
    """Tells what a peer doesn't support from what goes wrong.

    Args:
        model: The model's name.
        version: The name of a peer; of anything else, errors stay what they are.
        measured: What is to be measured in the block.

    Raises:
        RefusedError: Where TensorFlow or Keras refuse.
    """
    try:
        yield
    except _REFUSALS as error:
        if version not in _WAYS:
            raise
        reason = _reason(str(error)) or type(error).__name__
        raise RefusedError(Refusal(model, version, measured, reason)) from error


def _reason(message: str) -> str:
    """The line that says why."""
    lines = [line.strip() for line in _COLOURS.sub("", message).splitlines() if line.strip()]
    # What was asked of whom comes before the reason; the calls that led there, after it.
    said = (line for line in lines if not line.startswith(("Exception encountered", "Arguments")))
    return next(said, "")


def scope(version: str) -> contextlib.AbstractContextManager[Any]:
    """What a model has to be made in.

    Args:
        version: The name of a peer, or of anything else.

    Returns:
        A context manager; for most versions one that does nothing.

    Raises:
        NotImplementedError: If this Keras doesn't have what the peer is made of.
    """
    mode = _WAYS.get(version, _PLAIN).remat
    if mode is None:
        return contextlib.nullcontext()
    if not hasattr(keras, "RematScope"):
        raise NotImplementedError(f"RematScope came with Keras 3.9; this is {keras.__version__}")
    return keras.RematScope(mode=mode)


def forward(version: str, model: keras.Model) -> Forward:
    """The forward pass of a model in training mode, as a peer wants it.

    Args:
        version: The name of a peer, or of anything else.
        model: The model; what it computes stays, but its layers may be changed.

    Returns:
        A function from the input to the logits.

    Raises:
        ValueError: If the peer finds nothing in this model.
    """
    return _WAYS.get(version, _PLAIN).forward(model)


def is_compiled(version: str) -> bool:
    """Whether a version is a step that XLA compiles as a whole.

    Args:
        version: Its name.
    """
    return _WAYS.get(version, _PLAIN).compiled


def _unchanged(model: keras.Model) -> Forward:
    return lambda features: model(features, training=True)


def _activations_recomputed(model: keras.Model) -> Forward:
    found = 0
    for layer in model._flatten_layers(include_self=False):
        activation = getattr(layer, "activation", None)
        if callable(activation) and activation is not keras.activations.linear:
            layer.activation = tf.recompute_grad(activation)
            found += 1
    if not found:
        raise ValueError("no layer has an activation function of its own")
    return _unchanged(model)


@dataclasses.dataclass(frozen=True)
class _Way:
    """How a version is made.

    Attributes:
        remat: Mode of the RematScope that the model is made in, if any.
        forward: Makes the forward pass of a model.
        compiled: Whether XLA compiles the whole step.
    """

    remat: str | None = None
    forward: Callable[[keras.Model], Forward] = _unchanged
    compiled: bool = False


_PLAIN = _Way()
# Of the peers in `nested_fad_tf.bench.catalog`.
_WAYS = {
    "recompute_activations": _Way(forward=_activations_recomputed),
    "recompute_blocks": _Way(forward=blocks.recomputed),
    "remat_activations": _Way(remat="activations"),
    "remat_full": _Way(remat="full"),
    "jit_compile": _Way(compiled=True),
}
