"""Memory over one step, simulated or measured, small enough for a report."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from nested_fad_tf.graph.roles import Roles, begins_backward
from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.plan.peak import Lifetimes
from nested_fad_tf.plan.schedule import Step
from nested_fad_tf.report import layers
from nested_fad_tf.report.allocations import LiveTensor

_POINTS = 400
_LIVE = 8
_UNNAMED = "(names no op: compiled code)"
# What is named ought to be most of what is live; else it is named more coarsely.
_LEAST_NAMED = 0.6
# What a step is taken to move at least, so that ops on scalars have a place in time, too.
_LEAST_MOVED = 256


@dataclasses.dataclass(frozen=True)
class Live:
    """Buffers alike that are live when a step needs most.

    Attributes:
        name: What made them: the end of the op's name, without numbers.
        count: How many there are.
        bytes: What they take together.
    """

    name: str
    count: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Timeline:
    """Memory over one step, above what lived before it.

    The time of a simulated step is told by the bytes that ops read and write, as a part of all that
    the step moves; that of a measured one by the clock, as a part of all that it took.

    Attributes:
        points: Pairs (time, bytes live from then on); of a long step the highest in short spans.
        backward_from: When the backward pass begins.
        peak_at: When most is live.
        peak_bytes: What is live then.
        live: Of what that consists, the most bytes first; what is small is summed at the end.
    """

    points: tuple[tuple[float, int], ...]
    backward_from: float
    peak_at: float
    peak_bytes: int
    live: tuple[Live, ...]

    def aligned(self, backward_from: float) -> tuple[tuple[float, int], ...]:
        """The points with both passes stretched, so that two timelines can share an axis.

        Args:
            backward_from: When the backward pass is to begin.

        Returns:
            The points; the last one is the end of the step.
        """
        points = (*self.points, (1.0, self.points[-1][1] if self.points else 0))
        return tuple((self.moved(time, backward_from), size) for time, size in points)

    def moved(self, time: float, backward_from: float) -> float:
        """Where a time lies once the backward pass begins elsewhere.

        Args:
            time: A time of this timeline.
            backward_from: When the backward pass is to begin.

        Returns:
            The time to draw it at.
        """
        own = self.backward_from
        if time < own:
            return time / own * backward_from
        return backward_from + (time - own) / ((1 - own) or 1) * (1 - backward_from)


def timeline_of(view: GraphView, roles: Roles, lifetimes: Lifetimes) -> Timeline:
    """Condenses a simulation.

    Args:
        view: The graph.
        roles: Its roles.
        lifetimes: What the simulation saw.

    Returns:
        The timeline.
    """
    starts, total = [], 0
    for step in lifetimes.steps:
        starts.append(total)
        moved = sum([value.nbytes for value in (*step.inputs, *step.outputs)])
        total += max(_LEAST_MOVED, moved)
    times = [start / total for start in starts]
    peak = lifetimes.timeline.index(lifetimes.peak_bytes) if lifetimes.timeline else 0
    return Timeline(
        points=_thinned(times, lifetimes.timeline),
        backward_from=_first(times, lifetimes.steps, view, roles),
        peak_at=times[peak] if times else 0.0,
        peak_bytes=lifetimes.peak_bytes,
        live=_alike([(v.node.name, v.nbytes) for v in lifetimes.live_at_peak]),
    )


def timeline_of_call(
    points: Sequence[tuple[float, int]],
    backward_from: float | None,
    live: Sequence[LiveTensor],
) -> Timeline:
    """Condenses what was measured of a call.

    Args:
        points: Seconds since the call began, and bytes live from then on; at least one.
        backward_from: When the backward pass began, in seconds; `None` if that isn't known.
        live: What is live at the peak.

    Returns:
        The timeline; without a backward pass if that isn't known to have begun.
    """
    seconds = points[-1][0] or 1.0
    peak_at, peak = max(points, key=lambda point: point[1])
    return Timeline(
        points=tuple((time / seconds, size) for time, size in points),
        backward_from=1.0 if backward_from is None else min(1.0, backward_from / seconds),
        peak_at=peak_at / seconds,
        peak_bytes=peak,
        live=_alike([(tensor.name, tensor.bytes) for tensor in live]),
    )


def _first(times: list[float], steps: Iterable[Step], view: GraphView, roles: Roles) -> float:
    """When the backward pass begins."""
    for time, step in zip(times, steps, strict=True):
        if begins_backward(view, roles, step.nodes, step.inputs):
            return time
    return 1.0


def _thinned(times: Sequence[float], sizes: Sequence[int]) -> tuple[tuple[float, int], ...]:
    """The points, or the highest in each of many short spans where there are too many."""
    if len(times) <= _POINTS:
        return tuple((round(time, 6), size) for time, size in zip(times, sizes, strict=True))
    highest: dict[int, int] = {}
    last: dict[int, int] = {}
    for time, size in zip(times, sizes, strict=True):
        span = int(time * _POINTS)
        if size > highest.get(span, -1):
            highest[span] = size
        last[span] = size
    points = []
    for span in highest:
        points.append((span / _POINTS, highest[span]))
        if span + 1 not in highest and last[span] != highest[span]:
            points.append(((span + 1) / _POINTS, last[span]))  # a step longer than a span
    return tuple(points)


def _alike(buffers: Sequence[tuple[str, int]]) -> tuple[Live, ...]:
    """Sums up buffers whose ops differ in numbers only, as finely as few groups allow."""
    total = sum(size for _, size in buffers)
    groups: list[Live] = []
    for parts in (3, 2, 1):
        found: dict[str, list[int]] = {}
        for name, size in buffers:
            kind = layers.kind_of(name, parts) if name else _UNNAMED
            found.setdefault(kind, []).append(size)
        groups = [Live(name, len(sizes), sum(sizes)) for name, sizes in found.items()]
        groups.sort(key=lambda group: -group.bytes)
        if sum(group.bytes for group in groups[:_LIVE]) >= _LEAST_NAMED * total:
            break
    rest = groups[_LIVE:]
    if not rest:
        return tuple(groups)
    count, size = sum(g.count for g in rest), sum(g.bytes for g in rest)
    return (*groups[:_LIVE], Live("smaller ones", count, size))
