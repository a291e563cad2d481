"""What the builders of the benchmarks' models give."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np


@dataclasses.dataclass(frozen=True)
class Task:
    """A model, its features and the classes to predict."""

    model: keras.Model
    features: np.ndarray
    labels: np.ndarray


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Features.

    Args:
        rng: Where the numbers come from.
        *shape: Their shape.

    Returns:
        float32 numbers of the standard normal distribution.
    """
    return rng.standard_normal(shape).astype("float32")
