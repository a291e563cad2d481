"""Runs two versions of a step from the same state and compares all that they did."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from nested_fad_tf.errors import VerificationError

# How far results may differ, as a fraction of a tensor's largest entry. Recomputation is exact, but
# compiled groups round differently, and an optimizer step magnifies that: Adam divides a gradient
# by its own size, so that of one that is nothing but rounding even the sign may differ.
TOLERANCE = {tf.float64: 1e-9, tf.float32: 1e-3, tf.bfloat16: 5e-2, tf.float16: 1e-2}


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far a tensor of one version is from the other's.

    Attributes:
        name: The output's number or the variable's name.
        value: Largest difference, as a fraction of the largest entry; infinite if one version has a
            nan or an infinity where the other has not.
        allowed: What it may be.
    """

    name: str
    value: float
    allowed: float


@dataclasses.dataclass(frozen=True)
class Run:
    """What one version of a step did.

    Attributes:
        result: What it returned.
        tensors: Outputs and variables after the step, by name.
    """

    result: Any
    tensors: Mapping[str, np.ndarray]


def compare(
    plain: Callable[[], Any],
    rewritten: Callable[[], Any],
    variables: Sequence[tf.Variable],
    rtol: float | None = None,
    atol: float = 0.0,
) -> Any:
    """Runs both versions from the same variable values and compares outputs and variables.

    The variables are left as the rewritten version leaves them. Random numbers agree if they come
    from stateless ops or from generators whose state is among the variables.

    Args:
        plain: Runs the original.
        rewritten: Runs the rewritten version.
        variables: All variables that either may change.
        rtol: Allowed difference, as a fraction of a tensor's largest entry; by dtype by default.
        atol: Allowed absolute difference.

    Returns:
        What the rewritten version returned.

    Raises:
        VerificationError: If they differ by more; names the worst tensor.
    """
    before = [variable.numpy() for variable in variables]
    expected = _run(plain, variables)
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)
    actual = _run(rewritten, variables)
    worst = max(
        _differences(expected.tensors, actual.tensors, rtol, atol),
        key=lambda d: d.value / d.allowed if d.allowed else d.value,
        default=None,
    )
    if worst is not None and worst.value > worst.allowed:
        raise VerificationError(
            f"the rewritten function differs from the original in {worst.name} by {worst.value:.2g}"
            f" of its largest entry (allowed: {worst.allowed:.2g}). Please report this; meanwhile"
            " use tf.function for it."
        )
    return actual.result


def _run(version: Callable[[], Any], variables: Iterable[tf.Variable]) -> Run:
    result = version()
    tensors: dict[str, np.ndarray] = {}
    for index, leaf in enumerate(tf.nest.flatten(result, expand_composites=True)):
        if isinstance(leaf, tf.Tensor) and leaf.dtype not in (tf.resource, tf.variant):
            tensors[f"output {index}"] = leaf.numpy()
    for index, variable in enumerate(variables):
        tensors[f"variable {variable.name} (number {index})"] = variable.numpy()
    return Run(result, tensors)


def _differences(
    expected: Mapping[str, np.ndarray],
    actual: Mapping[str, np.ndarray],
    rtol: float | None,
    atol: float,
) -> Iterable[Difference]:
    if expected.keys() != actual.keys():
        missing = sorted(expected.keys() ^ actual.keys())
        raise VerificationError(f"only one version has: {', '.join(missing)}")
    for name, want in expected.items():
        yield _difference(name, np.asarray(want), np.asarray(actual[name]), rtol, atol)


def _difference(
    name: str, want: np.ndarray, got: np.ndarray, rtol: float | None, atol: float
) -> Difference:
    dtype = tf.as_dtype(want.dtype)
    if not dtype.is_floating:
        same = want.shape == got.shape and bool(np.all(want == got))
        return Difference(name, 0.0 if same else np.inf, 0.0)
    allowed = TOLERANCE[dtype] if rtol is None else rtol
    want, got = want.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(want)
    if want.shape != got.shape or not np.array_equal(finite, np.isfinite(got)):
        return Difference(name, np.inf, allowed)
    if not np.array_equal(want[~finite], got[~finite], equal_nan=True):
        return Difference(name, np.inf, allowed)
    scale = float(np.abs(want[finite]).max(initial=0.0))
    apart = float(np.abs(want[finite] - got[finite]).max(initial=0.0))
    relative = max(0.0, apart - atol) / scale if scale else max(0.0, apart - atol)
    return Difference(name, relative, allowed)
