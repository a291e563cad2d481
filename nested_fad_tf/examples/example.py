"""What an example is: a data set, a model for it, and how long to train."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


class MissingPackageError(RuntimeError):
    """An example needs a package that is not installed; the message says how to get it."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Inputs and integer labels, split into a part to train on and a part to test on.

    Attributes:
        train_x: Inputs to train on, examples along the first axis.
        train_y: Their labels: one per example, or one per position of a sequence.
        test_x: Inputs never trained on.
        test_y: Their labels.
        classes: How many labels there are.
        description: What the data is, in a few words.
    """

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    classes: int
    description: str

    def batches(self, size: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields training batches forever, reshuffled every epoch; the same ones for the same seed.

        Every batch is full, so that a step is traced for one shape.

        Args:
            size: Examples per batch. Batches larger than the data draw examples repeatedly.
            seed: Decides the order.
        """
        generator = np.random.default_rng(seed)
        order = np.empty(0, np.int64)
        while True:
            while len(order) < size:
                order = np.concatenate([order, generator.permutation(len(self.train_x))])
            chosen, order = order[:size], order[size:]
            yield self.train_x[chosen], self.train_y[chosen]


@dataclasses.dataclass(frozen=True)
class Example:
    """A model and the data it learns.

    Attributes:
        load: Makes the data set.
        make_model: Makes a Keras model that maps a batch of inputs to logits over the labels.
        batch_size: Examples per step, unless the user says otherwise.
        steps: Training steps, unless the user says otherwise.
        learning_rate: Of Adam.
        note: What a reader of the results has to know.
    """

    load: Callable[[], Dataset]
    make_model: Callable[[Dataset], Any]
    batch_size: int
    steps: int
    learning_rate: float
    note: str = ""
