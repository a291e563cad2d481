"""Memory, time and agreement of each version of a model in one row, and which are worth having."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from nested_fad_tf.bench import versions

Rows = Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Summary:
    """What was measured of one version.

    Attributes:
        model: The model's name.
        strategy: The version.
        peak: Peak of a step, bytes requested.
        gain: Plain TensorFlow's peak, divided by this one.
        ratio: Time of a step, divided by plain TensorFlow's.
        gradients: The largest difference of a gradient that is determined, in the last type
            measured; None if it wasn't.
        state: The same of moving averages and the like.
        front: Whether no other version of the model is both as fast and as small.
    """

    model: str
    strategy: str
    peak: int
    gain: float
    ratio: float
    gradients: float | None
    state: float | None
    front: bool


def rows(results: Mapping[str, Rows]) -> list[Summary]:
    """Puts together what was measured of each version.

    Args:
        results: Rows as dictionaries, by what was measured: memory, time, gradients.

    Returns:
        A row for plain TensorFlow and for each version with a peak and a time, by model.
    """
    times = {_key(row): row["ratio"] for row in results.get("time", ())}
    agreement = {_key(row): row for row in results.get("gradients", ())}
    peaks: dict[tuple[str, str], tuple[int, float]] = {}
    for row in results.get("memory", ()):
        peaks.setdefault((row["model"], versions.PLAIN), (row["plain_peak"], 1.0))
        peaks[_key(row)] = (row["peak"], row["plain_peak"] / row["peak"])
    found = [
        Summary(
            *key,
            *peaks[key],
            times[key],
            agreement.get(key, {}).get("worst_determined"),
            agreement.get(key, {}).get("state_difference"),
            front=not any(_beats(other, key, peaks, times) for other in peaks if other in times),
        )
        for key in peaks
        if key in times
    ]
    order = list(dict.fromkeys(model for model, _ in peaks))
    return sorted(found, key=lambda row: order.index(row.model))


def _key(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["model"], row["strategy"]


def _beats(
    other: tuple[str, str],
    key: tuple[str, str],
    peaks: Mapping[tuple[str, str], tuple[int, float]],
    times: Mapping[tuple[str, str], float],
) -> bool:
    """Whether another version of the same model is smaller and faster."""
    ours, theirs = (peaks[key][0], times[key]), (peaks[other][0], times[other])
    return other[0] == key[0] and theirs != ours and theirs[0] <= ours[0] and theirs[1] <= ours[1]
