"""Trains an example twice in step, plain and rewritten, so that nothing but the rewrite differs."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import nested_fad_tf as nfad
from nested_fad_tf.examples.example import Dataset, Example
from nested_fad_tf.options import Options
from nested_fad_tf.report.memory import Measurement, measure

# The first step traces, rewrites and compiles, the second warms up; neither is a steady step.
_WARM_UP_STEPS = 2
_TEST_BATCH = 64
_TEST_LIMIT = 512


@dataclasses.dataclass
class Version:
    """One of the two versions of a training run, and what it did.

    Attributes:
        model: The Keras model.
        step: Its training step: inputs and labels to the loss.
        losses: The loss of every step.
        seconds: The time of every step.
        accuracy_before: Share of test labels predicted correctly before training.
        accuracy_after: The same after training.
        memory: What a step needs, measured after training.
    """

    model: Any
    step: Callable[..., Any]
    losses: list[float] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)
    accuracy_before: float = 0.0
    accuracy_after: float = 0.0
    memory: Measurement | None = None

    @property
    def steady_seconds(self) -> float | None:
        """Median time of a step after warming up, or None if there was no such step."""
        steady = self.seconds[_WARM_UP_STEPS:]
        return statistics.median(steady) if steady else None

    def to_dict(self) -> dict[str, Any]:
        """Returns what it did as plain values."""
        return {
            "peak_bytes": self.memory.peak_bytes if self.memory else None,
            "total_peak_bytes": self.memory.total_peak_bytes if self.memory else None,
            "memory_method": self.memory.method if self.memory else None,
            "step_seconds": self.steady_seconds,
            "first_step_seconds": self.seconds[0] if self.seconds else None,
            "accuracy_before": self.accuracy_before,
            "accuracy_after": self.accuracy_after,
            "losses": self.losses,
        }


class Comparison:
    """An example as a plain and a rewritten tf.function, from the same initial state.

    The states of the dropout generators are part of the initial state, so both draw the same masks.

    Args:
        example: What to train.
        data: Its data set.
        options: How to rewrite.
        batch_size: Examples per step.
        seed: Decides initial weights, dropout and the order of the data.
    """

    def __init__(
        self, example: Example, data: Dataset, options: Options, batch_size: int, seed: int = 0
    ) -> None:
        self._data = data
        self._batch_size = batch_size
        self._seed = seed
        keras.utils.set_random_seed(seed)
        models = [example.make_model(data) for _ in range(2)]
        for original, copy in zip(models[0].variables, models[1].variables, strict=True):
            copy.assign(original)
        steps = [training_step(model, example.learning_rate) for model in models]
        self.plain = Version(models[0], tf.function(steps[0]))
        self.rewritten = Version(models[1], nfad.function(steps[1], options=options))

    @property
    def versions(self) -> tuple[Version, Version]:
        """The plain and the rewritten version."""
        return self.plain, self.rewritten

    @property
    def report(self) -> Any:
        """What the rewrite did; there is one after the first step."""
        return self.rewritten.step.reports[-1]  # type: ignore[attr-defined]

    def train(self, steps: int) -> Iterator[int]:
        """Runs training steps of both versions on the same batches, alternating which goes first.

        Args:
            steps: How many.

        Yields:
            The number of steps done, after each.
        """
        batches = self._data.batches(self._batch_size, self._seed)
        for done in range(1, steps + 1):
            x, y = (tf.constant(array) for array in next(batches))
            for version in self.versions if done % 2 else reversed(self.versions):
                start = time.perf_counter()
                loss = float(version.step(x, y))
                version.seconds.append(time.perf_counter() - start)
                version.losses.append(loss)
            yield done

    def measure_memory(self, version: Version) -> None:
        """Measures what a step of a version needs; this trains on, so it comes last.

        Args:
            version: One of the two.
        """
        version.memory = measure(version.step, *self.batch(), runs=1)

    def batch(self) -> list[Any]:
        """Returns the first batch: inputs and labels."""
        arrays = next(self._data.batches(self._batch_size, self._seed))
        return [tf.constant(array) for array in arrays]

    def accuracy(self, version: Version) -> float:
        """Returns the share of test labels that a version predicts correctly.

        Args:
            version: One of the two.
        """
        return accuracy(version.model, self._data)

    def time_ratios(self) -> list[float]:
        """Returns rewritten time over plain time, for every pair of steps after warming up."""
        pairs = zip(self.plain.seconds, self.rewritten.seconds, strict=True)
        return [rewritten / plain for plain, rewritten in pairs][_WARM_UP_STEPS:]

    def loss_differences(self) -> list[float]:
        """Returns the distance between the two losses, for every step."""
        pairs = zip(self.plain.losses, self.rewritten.losses, strict=True)
        return [abs(plain - rewritten) for plain, rewritten in pairs]


def training_step(model: Any, learning_rate: float) -> Callable[[Any, Any], Any]:
    """Returns an ordinary training step, as a user would write it under tf.function.

    Args:
        model: What it trains.
        learning_rate: Of Adam.
    """
    optimizer = keras.optimizers.Adam(learning_rate)
    # Creating the slots inside the step would trace it twice.
    optimizer.build(model.trainable_variables)

    def train_step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    return train_step


def accuracy(model: Any, data: Dataset) -> float:
    """Returns the share of test labels that a model predicts correctly.

    Args:
        model: Maps inputs to logits.
        data: What to test on.
    """
    signature = tf.TensorSpec([None, *data.test_x.shape[1:]], data.test_x.dtype)

    @tf.function(input_signature=[signature])
    def predict(x: Any) -> Any:
        return tf.argmax(model(x, training=False), axis=-1)

    hits = []
    for start in range(0, min(len(data.test_x), _TEST_LIMIT), _TEST_BATCH):
        part = slice(start, start + _TEST_BATCH)
        hits.append(np.ravel(predict(data.test_x[part]) == data.test_y[part]))
    return float(np.mean(np.concatenate(hits)))
