"""Memory, time and agreement of each version of a model in one row, and which are worth having."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from nested_fad_tf.bench import versions
from nested_fad_tf.report.front import front

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
    found = []
    for model in dict.fromkeys(model for model, _ in peaks):
        measured = [key for key in peaks if key[0] == model and key in times]
        points = {key: (times[key], float(peaks[key][0])) for key in measured}
        best = set(front(points.values()))
        for key in measured:
            agreed = agreement.get(key, {})
            difference, state = agreed.get("worst_determined"), agreed.get("state_difference")
            on_front = points[key] in best
            found.append(Summary(*key, *peaks[key], times[key], difference, state, on_front))
    return found


def _key(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["model"], row["strategy"]
