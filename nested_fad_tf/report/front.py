"""The Pareto front: what nothing else is both faster and smaller than."""

from __future__ import annotations

import math
from collections.abc import Iterable

Point = tuple[float, float]  # time, memory


def front(points: Iterable[Point]) -> list[Point]:
    """The points that no other one beats, nor equals in one and beats in the other.

    Args:
        points: Pairs of time and memory.

    Returns:
        Those on the front, each once, fastest first.

    Examples:
        >>> front([(1.0, 3.0), (1.2, 2.0), (1.3, 2.0), (1.1, 4.0)])
        [(1.0, 3.0), (1.2, 2.0)]
    """
    found: list[Point] = []
    least = math.inf
    for time, memory in sorted(set(points)):
        if memory < least:
            found.append((time, memory))
            least = memory
    return found
