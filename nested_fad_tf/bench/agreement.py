"""Does a rewritten step compute what the plain one computes? Gradients, and losses over ten steps.

Both versions start from the same weights, optimizer slots, moving averages and dropout seeds: all
are variables of the model or its optimizer, and are put back before every call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from nested_fad_tf.bench import models, variants

_STEPS = 10


@dataclass(frozen=True)
class GradientsRow:
    """How far the gradients of a rewritten step are from plain TensorFlow's.

    Differences are max |difference| / max |entry| of a tensor. Gradients that are zero but for
    rounding (of a bias before a normalization, say) are compared on the scale of sqrt(epsilon)
    times the largest gradient entry of the model.

    Attributes:
        model: The model's name.
        strategy: The rewrite's strategy.
        fuse: How its groups run.
        dtype: Type of weights and activations.
        loss_difference: Relative difference of the losses.
        worst_difference: The largest difference of any gradient.
        worst_tensor: The variable whose gradient that is.
        control_difference: The largest difference between two plain calls: the noise.
        differences: Every gradient's difference by the variable's path.
    """

    model: str
    strategy: str
    fuse: str
    dtype: str
    loss_difference: float
    worst_difference: float
    worst_tensor: str
    control_difference: float
    differences: dict[str, float]


@dataclass(frozen=True)
class LossesRow:
    """Losses of ten Adam steps, plain and rewritten.

    Attributes:
        model: The model's name.
        strategy: The rewrite's strategy.
        fuse: How its groups run.
        worst_difference: The largest relative difference at any step.
        control_difference: The same between two plain runs.
        plain: Losses of plain TensorFlow.
        rewritten: Losses of the rewritten step.
    """

    model: str
    strategy: str
    fuse: str
    worst_difference: float
    control_difference: float
    plain: tuple[float, ...]
    rewritten: tuple[float, ...]


def gradients_row(
    model: str, strategy: str = "auto", fuse: str = "auto", dtype: str = "float64"
) -> GradientsRow:
    """Compares loss and gradients of the plain and the rewritten step.

    Args:
        model: A name of `nested_fad_tf.bench.models`.
        strategy: A strategy of `nested_fad_tf.Options`, or "plain".
        fuse: How fused groups run.
        dtype: "float64" for a tight check, or "float32".

    Returns:
        The row.
    """
    problem = models.build(model, dtype=dtype)
    reset = _resetter(problem)

    def run(function: Any) -> tuple[float, dict[str, np.ndarray]]:
        reset()
        loss, gradients = function(*problem.inputs)
        paths = [variable.path for variable in problem.model.trainable_variables]
        found = zip(paths, gradients, strict=True)
        return float(loss), {
            path: tf.convert_to_tensor(gradient).numpy()
            for path, gradient in found
            if gradient is not None  # A weight that the loss does not depend on.
        }

    plain_function = variants.wrap(problem.gradients, variants.PLAIN)
    plain_loss, plain = run(plain_function)
    _, again = run(plain_function)
    loss, rewritten = run(variants.wrap(problem.gradients, strategy, fuse))
    differences = _differences(plain, rewritten, dtype)
    worst = max(differences, key=differences.__getitem__)
    return GradientsRow(
        model=model,
        strategy=strategy,
        fuse=fuse,
        dtype=dtype,
        loss_difference=_relative(plain_loss, loss),
        worst_difference=differences[worst],
        worst_tensor=worst,
        control_difference=max(_differences(plain, again, dtype).values()),
        differences=differences,
    )


def losses_row(model: str, strategy: str = "auto", fuse: str = "auto") -> LossesRow:
    """Compares the losses of ten Adam steps from the same state.

    Args:
        model: A name of `nested_fad_tf.bench.models`.
        strategy: A strategy of `nested_fad_tf.Options`, or "plain".
        fuse: How fused groups run.

    Returns:
        The row.
    """
    problem = models.build(model)
    reset = _resetter(problem)

    def run(function: Any) -> tuple[float, ...]:
        reset()
        return tuple(float(function(*problem.inputs)) for _ in range(_STEPS))

    plain_function = variants.wrap(problem.step, variants.PLAIN)
    plain, again = run(plain_function), run(plain_function)
    rewritten = run(variants.wrap(problem.step, strategy, fuse))
    return LossesRow(
        model=model,
        strategy=strategy,
        fuse=fuse,
        worst_difference=_worst_relative(plain, rewritten),
        control_difference=_worst_relative(plain, again),
        plain=plain,
        rewritten=rewritten,
    )


def _resetter(problem: models.Problem) -> Callable[[], None]:
    """Remembers every variable's value, dropout's seeds included; the result puts them back."""
    variables = [*problem.model.variables, *problem.optimizer.variables]
    values = [variable.numpy() for variable in variables]

    def reset() -> None:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    return reset


def _differences(
    plain: dict[str, np.ndarray], other: dict[str, np.ndarray], dtype: str
) -> dict[str, float]:
    if plain.keys() != other.keys():
        raise RuntimeError(f"gradients exist in one version only: {plain.keys() ^ other.keys()}")
    largest = max(float(np.max(np.abs(gradient))) for gradient in plain.values())
    floor = float(np.sqrt(np.finfo(dtype).eps)) * largest
    return {
        path: float(np.max(np.abs(gradient - other[path])))
        / max(float(np.max(np.abs(gradient))), floor)
        for path, gradient in plain.items()
    }


def _relative(reference: float, value: float) -> float:
    return abs(value - reference) / abs(reference)


def _worst_relative(reference: Sequence[float], values: Sequence[float]) -> float:
    return max(_relative(a, b) for a, b in zip(reference, values, strict=True))
