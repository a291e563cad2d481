"""Derivatives as functions of outputs: what an activation gives tells its derivative.

GELU, SiLU and Mish fall to a single minimum and rise from there. So does their derivative follow
from the output, which the next matrix product keeps anyway, and from one bit that says on which
side of the minimum the input was (Novikov & Oseledets, arXiv 2407.15545).

The distance of the output from the minimum grows with the square of the input's. So its square
root, with the sign of the side, is a smooth function of the input even at the minimum, and one
polynomial of it gives the derivative on both sides. It is interpolated at Chebyshev's points, and
what it is off by measured over all inputs. Monotone functions need no bit, and no square root.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial
from scipy import optimize

Function = Callable[[np.ndarray], np.ndarray]

# What the error may be, as a part of the derivative's largest value: 8-bit integers are off by a
# 510th of a row's range. The first degree that is within is taken, else the last if that is still
# close.
_GOOD, _TOLERABLE = 0.003, 0.008
_DEGREES = (5, 7, 9, 11, 13)
# Where the derivative is that close to where it ends up, it is taken for a constant.
_SETTLED = 5e-4
# Differences below this part of the output's range are rounding, not a rise or a fall.
_FLAT = 1e-9
# What inputs to look at first; beyond the near ones nothing may change any more.
_NEAR = 20.0
_FAR = np.geomspace(_NEAR, 1e4, 100)[1:]
_FIRST = np.concatenate([-_FAR[::-1], np.linspace(-_NEAR, _NEAR, 16001), _FAR])
# How many of them have to be where the derivative changes, and how often more are looked at.
_ENOUGH, _ROUNDS = 1000, 3


@dataclasses.dataclass(frozen=True)
class Inversion:
    """How a derivative follows from an output.

    Attributes:
        turn: The input at which the output is least or greatest; `None` for a monotone function.
        extreme: The output there; 0 for a monotone function.
        rising: Whether the output rises from there.
        low: The coordinate below which the derivative stays as it is.
        high: The coordinate above which it does.
        coefficients: Of the polynomial in the coordinate scaled to [-1, 1], the constant first.
        error: What the result is off by at most, over all inputs.
    """

    turn: float | None
    extreme: float
    rising: bool
    low: float
    high: float
    coefficients: tuple[float, ...]
    error: float

    def coordinate(self, output: np.ndarray, after: np.ndarray) -> np.ndarray:
        """What the polynomial is one of.

        Args:
            output: Outputs.
            after: Whether the input is above `turn`.

        Returns:
            The root of the output's distance from the extreme, below zero before the turn; for a
            monotone function the output.
        """
        if self.turn is None:
            return output
        distance = output - self.extreme if self.rising else self.extreme - output
        root = np.sqrt(np.maximum(distance, 0))
        return np.where(after, root, -root)

    @property
    def scale(self) -> tuple[float, float]:
        """Factor and offset that take [low, high] to [-1, 1]."""
        width = self.high - self.low
        return 2 / width, -(self.high + self.low) / width

    def __call__(self, output: np.ndarray, after: np.ndarray) -> np.ndarray:
        """The derivative, as the graph computes it.

        Args:
            output: Outputs, float32 or float64.
            after: Whether the input is above `turn`.

        Returns:
            Derivatives.
        """
        factor, offset = (output.dtype.type(number) for number in self.scale)
        bounded = np.clip(self.coordinate(output, after), self.low, self.high)
        scaled = bounded.astype(output.dtype) * factor + offset
        result = np.full_like(scaled, self.coefficients[-1])
        for coefficient in reversed(self.coefficients[:-1]):
            result = result * scaled + output.dtype.type(coefficient)
        return result


def invert(output: Function, derivative: Function, dtype: np.dtype) -> Inversion | None:
    """Finds how a derivative follows from an output.

    Args:
        output: The output as a function of the input, in float64.
        derivative: The derivative as a function of the input, in float64.
        dtype: What the output is rounded to.

    Returns:
        The inversion; `None` if the output turns more than once, something isn't finite, or no
        polynomial is close enough.
    """
    sampled = _sampled(output, derivative)
    start = None if sampled is None else _start(output, sampled)
    if sampled is None or start is None:
        return None
    y, d = sampled.outputs, sampled.derivatives
    largest = np.abs(d).max()
    after = np.greater(sampled.inputs, -np.inf if start.turn is None else start.turn)
    coordinates = start.coordinate(y, after)
    ends = coordinates[list(sampled.ends)]
    start = dataclasses.replace(start, low=float(min(ends)), high=float(max(ends)))
    order = np.argsort(coordinates, kind="stable")
    along, values = coordinates[order], d[order]
    best: Inversion | None = None
    for degree in _DEGREES:
        found = Chebyshev.interpolate(
            lambda c: np.interp(c, along, values), degree, domain=[start.low, start.high]
        )
        # In the scaled coordinate, not in the coordinate itself.
        powers = Chebyshev(found.coef).convert(kind=Polynomial).coef
        fitted = dataclasses.replace(start, coefficients=tuple(map(float, powers)))
        best = dataclasses.replace(fitted, error=_error(fitted, y, d, after, dtype))
        if best.error <= _GOOD * largest:
            return best
    return best if best is not None and best.error <= _TOLERABLE * largest else None


@dataclasses.dataclass(frozen=True)
class _Sampled:
    """Both functions at many inputs.

    Attributes:
        inputs: The inputs, in order.
        outputs: The outputs.
        derivatives: The derivatives.
        ends: Between which two of the inputs the derivative changes.
    """

    inputs: np.ndarray
    outputs: np.ndarray
    derivatives: np.ndarray
    ends: tuple[int, int]


def _sampled(output: Function, derivative: Function) -> _Sampled | None:
    """Looks at a function closely where it changes; `None` if it has no bounds or isn't finite."""
    # At uneven distances, so that nothing that repeats itself goes unseen.
    inputs = _FIRST + np.random.default_rng(0).uniform(0, 1e-3, _FIRST.shape)
    for _ in range(_ROUNDS):
        y, d = output(inputs), derivative(inputs)
        if not (np.isfinite(y).all() and np.isfinite(d).all()):
            return None
        close = _SETTLED * np.abs(d).max()
        changing = np.flatnonzero((np.abs(d - d[0]) > close) & (np.abs(d - d[-1]) > close))
        if not len(changing):
            return None
        first, last = changing[0] - 1, changing[-1] + 1
        if max(-inputs[first], inputs[last]) > _NEAR:
            return None
        if len(changing) >= _ENOUGH:
            return _Sampled(inputs, y, d, (first, last))
        closer = np.linspace(inputs[first], inputs[last], 4 * _ENOUGH)[1:-1]
        inputs = np.unique(np.concatenate([inputs, closer]))
    return None


def _start(output: Function, sampled: _Sampled) -> Inversion | None:
    """Where an output turns; `None` if it does more than once, or is constant."""
    inputs, y = sampled.inputs, sampled.outputs
    first, last = sampled.ends
    steps = np.diff(y)
    slopes = np.sign(steps) * (np.abs(steps) > _FLAT * np.ptp(y[first:last]))
    places = np.flatnonzero(slopes)
    turns = np.flatnonzero(np.diff(slopes[places]))
    if not len(places) or len(turns) > 1:
        return None
    rising = bool(slopes[places[-1]] > 0)
    if not len(turns):
        return Inversion(None, 0.0, rising, 0.0, 0.0, (), np.inf)
    bounds = inputs[places[turns[0]]], inputs[places[turns[0] + 1] + 1]
    sign = 1 if rising else -1
    turn = float(
        optimize.minimize_scalar(
            lambda x: sign * output(np.array([x]))[0],
            bounds=bounds,
            method="bounded",
            options={"xatol": 1e-10},
        ).x
    )
    return Inversion(turn, float(output(np.array([turn]))[0]), rising, 0.0, 0.0, (), np.inf)


def _error(
    fitted: Inversion, y: np.ndarray, d: np.ndarray, after: np.ndarray, dtype: np.dtype
) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = y.astype(dtype)
        wide = np.float64 if rounded.dtype == np.float64 else np.float32
        error = np.abs(fitted(rounded.astype(wide), after) - d).max()
    return float(error) if np.isfinite(error) else np.inf
