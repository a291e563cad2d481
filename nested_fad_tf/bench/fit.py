"""Does `fit` give the same losses in the same part of the memory as a training loop by hand?

    python -m nested_fad_tf.bench.fit --json '{"model": "mish_mlp", "strategy": "auto"}'

As a program: one model in a process of its own; the last line printed is the answer, JSON. Two
epochs of two full batches and a smaller third, which makes every batch size unknown when the step
is traced. The models are those of `nested_fad_tf.bench.models`, with dropout where they have it.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import nested_fad_tf as nfad
from nested_fad_tf.bench import models, request, versions
from nested_fad_tf.bench.agreement import nudge, worst_relative
from nested_fad_tf.report import memory

_MODULE = "nested_fad_tf.bench.fit"
_EPOCHS = 2
# The size of the last batch of an epoch, as a part of the others'.
_LAST = 0.4


@dataclasses.dataclass(frozen=True)
class FitRow:
    """`fit`, plain and under `nested_fad_tf.rewriting`.

    Attributes:
        model: The model's name.
        strategy: The rewrite's strategy.
        plain_peak: Peak of a step of plain Keras, in requested bytes above what lived before.
        peak: The same with the rewritten step.
        loop_gain: How many times less a step of a training loop by hand needs when rewritten, its
            batch size known; `None` if that wasn't measured.
        worst_difference: The largest relative difference of the losses at any batch.
        sensitivity: The same between two plain runs whose first weights differ by one unit in the
            last place.
        plain: Losses of plain Keras.
        rewritten: Losses of the rewritten model.
    """

    model: str
    strategy: str
    plain_peak: int
    peak: int
    loop_gain: float | None
    worst_difference: float
    sensitivity: float
    plain: tuple[float, ...]
    rewritten: tuple[float, ...]

    @property
    def gain(self) -> float:
        """How many times less memory `fit` needs."""
        return self.plain_peak / self.peak


def fit_row(model: str, strategy: str = "auto", loop_gain: float | None = None) -> FitRow:
    """Trains a model with `fit`, plain and rewritten, each in a fresh process.

    Args:
        model: A name of `nested_fad_tf.bench.models`.
        strategy: A strategy of `nested_fad_tf.Options`.
        loop_gain: What the same strategy gains in a training loop by hand, to be shown beside it.

    Returns:
        The row.

    Raises:
        RuntimeError: If a process fails; the message ends with its last error lines.
    """
    plain, other = (
        request.ask(_MODULE, {"model": model, "strategy": s}) for s in (versions.PLAIN, strategy)
    )
    return FitRow(
        model=model,
        strategy=strategy,
        plain_peak=plain["peak_bytes"],
        peak=other["peak_bytes"],
        loop_gain=loop_gain,
        worst_difference=worst_relative(plain["losses"], other["losses"]),
        sensitivity=worst_relative(plain["losses"], plain["nudged"]),
        plain=tuple(plain["losses"]),
        rewritten=tuple(other["losses"]),
    )


def train(model: str, strategy: str) -> dict[str, Any]:
    """Trains a model in this process and measures a further step of it.

    Args:
        model: A name of `nested_fad_tf.bench.models`.
        strategy: "plain" or a strategy of `nested_fad_tf.Options`.

    Returns:
        losses, one a batch; peak_bytes; and of plain Keras `nudged`, the losses from first weights
        that are one unit in the last place off.
    """
    problem = models.build(model)
    features, labels = (tensor.numpy() for tensor in problem.inputs)
    network = _with_any_batch_size(problem.model)
    if strategy != versions.PLAIN:
        nfad.keras.optimize(network, versions.options(strategy))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(1e-4), loss=loss)
    network.optimizer.build(network.trainable_variables)
    variables = [*network.variables, *network.optimizer.variables]
    start = [variable.numpy() for variable in variables]
    answer: dict[str, Any] = {"losses": _fit(network, features, labels)}
    # Tensors: a batch of NumPy's would be copied within the step, and count as part of its memory.
    batch = [tf.constant(features), tf.constant(labels)]
    step = memory.measure(lambda: network.train_on_batch(*batch), runs=1)
    answer["peak_bytes"] = step.peak_bytes
    if strategy == versions.PLAIN:
        for variable, value in zip(variables, start, strict=True):
            variable.assign(value)
        nudge(network.trainable_variables, seed=1)
        answer["nudged"] = _fit(network, features, labels)
    return answer


def _with_any_batch_size(model: keras.Model) -> keras.Model:
    """A copy, from the same seed whoever asks for it, whose batch size isn't fixed."""
    (given,) = model.inputs
    keras.utils.set_random_seed(0)
    free = keras.Input(given.shape[1:], dtype=given.dtype)
    with keras.saving.custom_object_scope(models.CUSTOM_OBJECTS):
        if isinstance(model, keras.Sequential):  # Keras 3.6 takes no input for those
            return keras.Sequential([free, *keras.models.clone_model(model).layers])
        listed = isinstance(model.input, list)
        return keras.models.clone_model(model, input_tensors=[free] if listed else free)


def _fit(model: keras.Model, features: np.ndarray, labels: np.ndarray) -> list[float]:
    """Losses of two epochs, one a batch."""
    size = len(features)
    last = max(1, int(_LAST * size))
    order = np.concatenate([np.arange(size), np.arange(size)[::-1], np.arange(last)])
    recorder = _BatchLosses()
    model.fit(
        features[order], labels[order], batch_size=size, epochs=_EPOCHS, shuffle=False, verbose=0,
        callbacks=[recorder],
    )  # fmt: skip
    return recorder.losses


class _BatchLosses(keras.callbacks.Callback):
    """Notes what `fit` reports after every batch: the mean over its epoch so far."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.losses.append(float(logs["loss"]))


def main(arguments: list[str]) -> None:
    """Answers one request.

    Args:
        arguments: Command-line arguments without the program's name.
    """
    asked = request.parse(_MODULE, "train", arguments)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    print(json.dumps(train(**asked)))


if __name__ == "__main__":
    main(sys.argv[1:])
