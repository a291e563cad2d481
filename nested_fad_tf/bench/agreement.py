"""Does another version of a step compute what the plain one does? Gradients, and ten losses.

Both versions start from the same weights, optimizer slots, moving averages and dropout seeds: all
are variables of the model or its optimizer, and are put back before every call.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from nested_fad_tf.bench import models, peers, variants, versions

_STEPS = 10
# Seeds of the changes to the weights that show how well a gradient is determined.
_NUDGES = (1, 2, 3)
# Gradients that a row lists.
_SHOWN = 10
# What gradients may differ by, relative to a tensor's largest entry.
BOUNDS = {"float32": 1e-5, "float64": 1e-12}


@dataclass(frozen=True)
class GradientsRow:
    """How far the gradients of another version of a step are from plain TensorFlow's.

    Differences are max |difference| / max |entry| of a tensor. Some gradients are zero but for
    rounding (of a bias before a normalization, say) and no two ways to compute them agree. Which
    those are, plain TensorFlow tells itself: by how far its gradients move when every weight is
    changed by one unit in the last place.

    Attributes:
        model: The model's name.
        strategy: The other version.
        fuse: How its groups run.
        jit_compile: Whether XLA compiles the step as a whole, plain and rewritten.
        dtype: Type of weights and activations.
        loss_difference: Relative difference of the losses.
        worst_difference: The largest difference of any gradient.
        worst_tensor: The variable whose gradient that is.
        worst_determined: The largest difference of any gradient that moves by no more than
            `BOUNDS` when the weights' last bits change.
        undetermined: How many gradients move more.
        worst_excess: The largest ratio of one of those's difference to what it moves by itself.
        control_difference: The largest difference between two plain calls: the noise.
        state_difference: The largest difference of what the step updates beside the weights, such
            as the moving averages of a batch normalization.
        norm_difference: The norm of the difference of all gradients together, as a part of theirs.
        cosine: The cosine between them.
        differences: The ten largest differences by the variable's path.
        sensitivities: How far those gradients move by one unit in the last place of the weights.
        tensors: For a lossy version, by the path of each variable: the norm of its gradient's
            difference as a part of the gradient's, and the cosine between the two.
    """

    model: str
    strategy: str
    fuse: str
    jit_compile: bool
    dtype: str
    loss_difference: float
    worst_difference: float
    worst_tensor: str
    worst_determined: float
    undetermined: int
    worst_excess: float
    control_difference: float
    state_difference: float
    norm_difference: float
    cosine: float
    differences: dict[str, float]
    sensitivities: dict[str, float]
    tensors: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class LossesRow:
    """Losses of ten Adam steps, plain and rewritten.

    Attributes:
        model: The model's name.
        strategy: The other version.
        fuse: How its groups run.
        jit_compile: Whether XLA compiles the step as a whole, plain and rewritten.
        worst_difference: The largest relative difference at any step.
        control_difference: The same between two plain runs.
        sensitivity: The same between two plain runs whose first weights differ by one unit in the
            last place.
        plain: Losses of plain TensorFlow.
        rewritten: Losses of the rewritten step.
    """

    model: str
    strategy: str
    fuse: str
    jit_compile: bool
    worst_difference: float
    control_difference: float
    sensitivity: float
    plain: tuple[float, ...]
    rewritten: tuple[float, ...]


def gradients_row(
    model: str, strategy: str = "auto", how: variants.How = variants.DEFAULT, dtype: str = "float64"
) -> GradientsRow:
    """Compares loss and gradients of the plain step and of another version.

    Args:
        model: A name of `nested_fad_tf.bench.models`.
        strategy: A version as `nested_fad_tf.bench.versions` reads it.
        how: What else the versions are made with.
        dtype: "float64" for a tight check, or "float32".

    Returns:
        The row.

    Raises:
        RefusedError: If the version is a peer that doesn't run.
    """
    if peers.is_compiled(strategy):
        # XLA draws other random numbers from the same seeds: compiled compares with compiled.
        how = dataclasses.replace(how, jit_compile=True)
    # Keras counts names on: rows of several versions are to call their gradients the same.
    keras.utils.clear_session(free_memory=False)
    plain = Gradients(model, versions.PLAIN, how, dtype)
    expected = plain.run()
    again = plain.run()
    with peers.refusing(model, strategy, f"gradients, {dtype}"):
        found = Gradients(model, strategy, how, dtype, plain.paths).run()
    both = expected.gradients, found.gradients
    differences = relative_differences(*both)
    norm_difference, cosine = _as_vectors(
        *(np.concatenate([g[path].ravel() for path in expected.gradients]) for g in both)
    )
    lossy = versions.is_rewrite(strategy) and versions.options(strategy).lossy
    tensors = {p: _as_vectors(*(g[p].ravel() for g in both)) for p in expected.gradients if lossy}
    worst = max(differences, key=differences.__getitem__)
    sensitivities = plain.sensitivities(expected)
    determined = {path for path, moved in sensitivities.items() if moved <= BOUNDS[dtype]}
    largest = sorted(differences, key=differences.__getitem__, reverse=True)[:_SHOWN]
    return GradientsRow(
        model=model,
        strategy=strategy,
        fuse=how.fuse,
        jit_compile=how.jit_compile,
        dtype=dtype,
        loss_difference=_relative(expected.loss, found.loss),
        worst_difference=differences[worst],
        worst_tensor=worst,
        worst_determined=worst_determined(differences, sensitivities, dtype),
        undetermined=len(differences) - len(determined),
        worst_excess=max(
            (d / sensitivities[p] for p, d in differences.items() if p not in determined),
            default=0.0,
        ),
        control_difference=max(relative_differences(expected.gradients, again.gradients).values()),
        state_difference=max(
            relative_differences(expected.state, found.state).values(), default=0.0
        ),
        norm_difference=norm_difference,
        cosine=cosine,
        differences={path: differences[path] for path in largest},
        sensitivities={path: sensitivities[path] for path in largest},
        tensors=tensors,
    )


def _as_vectors(expected: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    """The norm of the difference of two vectors, as a part of the first one's, and the cosine."""
    wanted, got = expected.astype(np.float64), found.astype(np.float64)
    norm = float(np.linalg.norm(wanted))
    both = norm * float(np.linalg.norm(got))
    apart = float(np.linalg.norm(got - wanted))
    return _ratio(apart, norm), float(wanted @ got) / both if both else 1.0


@dataclass(frozen=True)
class Found:
    """What one call gave: gradients and state by the path of their variable."""

    loss: float
    gradients: dict[str, np.ndarray]
    state: dict[str, np.ndarray]


class Gradients:
    """The gradient function of one version of a model, which starts from the same state each time.

    Args:
        model: The model's name.
        version: The version.
        how: What else it is made with.
        dtype: Type of weights and activations.
        paths: What the variables are called; Keras counts names on with every model it makes.

    Attributes:
        function: What runs.
        paths: The same; by default the variables' own.
    """

    def __init__(
        self,
        model: str,
        version: str,
        how: variants.How,
        dtype: str,
        paths: Sequence[str] | None = None,
    ) -> None:
        self._problem = models.build(model, dtype=dtype, version=version)
        self._reset = _resetter(self._problem)
        self.function = variants.wrap(self._problem.gradients, version, how)
        self._variables = [*self._weights, *self._problem.model.non_trainable_variables]
        self.paths = paths or [variable.path for variable in self._variables]

    @property
    def _weights(self) -> list[keras.Variable]:
        return self._problem.model.trainable_variables

    def call(self) -> Any:
        """Calls it, and leaves the state as it then is."""
        return self.function(*self._problem.inputs)

    def sensitivities(self, expected: Found) -> dict[str, float]:
        """How far gradients move by one unit in the last place of the weights.

        Args:
            expected: What a call gave.

        Returns:
            The largest relative difference of each gradient, by path.
        """
        nudged = [
            relative_differences(expected.gradients, self.run(seed).gradients) for seed in _NUDGES
        ]
        return {path: max(n[path] for n in nudged) for path in expected.gradients}

    def run(self, seed: int = 0) -> Found:
        """Calls it once.

        Args:
            seed: If not zero: the weights are moved by one unit in the last place, this way.

        Returns:
            What it gave.
        """
        self._reset()
        if seed:
            nudge(self._weights, seed)
        loss, gradients = self.call()
        found = {
            path: tf.convert_to_tensor(gradient).numpy()
            for path, gradient in zip(self.paths, gradients, strict=False)
            if gradient is not None  # A weight that the loss does not depend on.
        }
        rest = list(zip(self.paths, self._variables, strict=True))[len(gradients) :]
        state = {p: v.numpy() for p, v in rest if tf.as_dtype(v.dtype).is_floating}
        return Found(float(loss), found, state)


def losses_row(
    model: str, strategy: str = "auto", how: variants.How = variants.DEFAULT
) -> LossesRow:
    """Compares the losses of ten Adam steps from the same state.

    Args:
        model: A name of `nested_fad_tf.bench.models`.
        strategy: A rewrite as `nested_fad_tf.bench.versions` reads it, or "plain".
        how: What else the versions are made with.

    Returns:
        The row.
    """
    problem = models.build(model)
    reset = _resetter(problem)

    def run(function: Any, seed: int = 0) -> tuple[float, ...]:
        reset()
        if seed:
            nudge(problem.model.trainable_variables, seed)
        return tuple(float(function(*problem.inputs)) for _ in range(_STEPS))

    plain_function = variants.wrap(problem.step, versions.PLAIN, how)
    plain, again = run(plain_function), run(plain_function)
    rewritten = run(variants.wrap(problem.step, strategy, how))
    nudged = run(plain_function, _NUDGES[0])
    return LossesRow(
        model=model,
        strategy=strategy,
        fuse=how.fuse,
        jit_compile=how.jit_compile,
        worst_difference=worst_relative(plain, rewritten),
        control_difference=worst_relative(plain, again),
        sensitivity=worst_relative(plain, nudged),
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


def nudge(variables: Sequence[keras.Variable], seed: int) -> None:
    """Moves every entry up or down by one unit in the last place.

    Args:
        variables: Variables of floating numbers.
        seed: Decides which entries go up.
    """
    rng = np.random.default_rng(seed)
    for variable in variables:
        value = variable.numpy()
        towards = np.where(rng.random(value.shape) < 0.5, -np.inf, np.inf).astype(value.dtype)
        variable.assign(np.nextafter(value, towards))


def relative_differences(
    plain: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """How far tensors are apart.

    Args:
        plain: Tensors by name.
        other: As many others.

    Returns:
        By name, the largest difference of an entry as a part of the largest entry of `plain`.
    """
    if plain.keys() != other.keys():
        raise RuntimeError(f"gradients exist in one version only: {plain.keys() ^ other.keys()}")
    return {
        path: _ratio(float(np.max(np.abs(gradient - other[path]))), np.max(np.abs(gradient)))
        for path, gradient in plain.items()
    }


def worst_determined(
    differences: Mapping[str, float], sensitivities: Mapping[str, float], dtype: str
) -> float:
    """The largest difference of a gradient that is more than rounding.

    Args:
        differences: How far gradients are apart.
        sensitivities: How far they move when the weights' last bits change.
        dtype: Their type.

    Returns:
        The largest of those that move by no more than `BOUNDS`.
    """
    determined = (d for p, d in differences.items() if sensitivities[p] <= BOUNDS[dtype])
    return max(determined, default=0.0)


def _ratio(difference: float, largest: float) -> float:
    return difference / float(largest) if difference else 0.0


def _relative(reference: float, value: float) -> float:
    return abs(value - reference) / abs(reference)


def worst_relative(reference: Sequence[float], values: Sequence[float]) -> float:
    """The largest relative difference.

    Args:
        reference: Numbers other than zero.
        values: As many others.

    Returns:
        The largest of their differences, each relative to its reference.
    """
    return max(_relative(a, b) for a, b in zip(reference, values, strict=True))
