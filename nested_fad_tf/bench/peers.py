"""Other ways to save activation memory, applied to the benchmarks' models as their users would.

Nothing here is of this package: `tf.recompute_grad`, Keras' RematScope and XLA, each on the same
model, data and seeds. What a peer can't do is a `Refusal`, not a failure of the benchmark. Keras
tells of layers inside of layers by private API only; checked on 2.21.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from nested_fad_tf.bench import blocks

Forward = Callable[[tf.Tensor], tf.Tensor]

# What TensorFlow and Keras raise where they do not support something.
REFUSALS = (ValueError, TypeError, NotImplementedError, tf.errors.OpError)
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


def refusal(model: str, peer: str, measured: str, error: BaseException | str) -> Refusal:
    """A row that says why a peer doesn't run.

    Args:
        model: The model's name.
        peer: The peer's name.
        measured: What was to be measured.
        error: What was raised, or its text.

    Returns:
        The row.
    """
    lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
    # What was asked of whom comes before the reason; the calls that led there, after it.
    said = [line for line in lines if not line.startswith(("Exception encountered", "Arguments"))]
    return Refusal(model, peer, measured, said[0] if said else type(error).__name__)


class RefusedError(RuntimeError):
    """A peer doesn't run.

    Attributes:
        row: What and why.
    """

    def __init__(self, row: Refusal) -> None:
        """An error for a row."""
        super().__init__(f"{row.strategy} on {row.model}: {row.reason}")
        self.row = row


def scope(version: str) -> contextlib.AbstractContextManager[Any]:
    """What a model has to be made in.

    Args:
        version: The name of a peer, or of anything else.

    Returns:
        A context manager; for most versions one that does nothing.
    """
    mode = {"remat_activations": "activations", "remat_full": "full"}.get(version)
    return keras.RematScope(mode=mode) if mode else contextlib.nullcontext()


def forward(version: str, model: keras.Model) -> Forward:
    """The forward pass of a model in training mode, as a peer wants it.

    Args:
        version: The name of a peer, or of anything else.
        model: The model; what it computes stays, but its layers may be changed.

    Returns:
        A function from the input to the logits.

    Raises:
        NotImplementedError: If the peer finds nothing in this model.
    """
    if version == "recompute_activations":
        _recompute_activations(model)
    if version == "recompute_blocks":
        return blocks.recomputed(model)
    return lambda features: model(features, training=True)


def is_compiled(version: str) -> bool:
    """Whether a version is a step that XLA compiles as a whole.

    Args:
        version: Its name.
    """
    return version == "jit_compile"


def _recompute_activations(model: keras.Model) -> None:
    found = 0
    for layer in model._flatten_layers(include_self=False):
        activation = getattr(layer, "activation", None)
        if callable(activation) and activation is not keras.activations.linear:
            layer.activation = tf.recompute_grad(activation)
            found += 1
    if not found:
        raise NotImplementedError("no layer has an activation function of its own")
