"""Memory over one step as the paths of an SVG drawing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from nested_fad_tf.report.summary import Report
from nested_fad_tf.report.timeline import Timeline
from nested_fad_tf.report.units import unit_of

# The drawing's own coordinates; whoever shows it may scale it.
WIDTH, HEIGHT = 960, 300


@dataclasses.dataclass(frozen=True)
class Curve:
    """One timeline.

    Attributes:
        line: The curve, as the attribute d of a path.
        area: The same, closed along the axis.
        peak: Where the peak is.
        timeline: What is drawn.
    """

    line: str
    area: str
    peak: tuple[float, float]
    timeline: Timeline


@dataclasses.dataclass(frozen=True)
class Curves:
    """Memory before and after on the same axes.

    Attributes:
        before: As plain TensorFlow.
        after: As it is now; `None` if nothing was changed.
        backward: Where the backward pass begins.
        ticks: Heights and numbers at the axis.
        unit: What the numbers count.
        width: Of the drawing.
        height: Of the drawing.
    """

    before: Curve
    after: Curve | None
    backward: float
    ticks: tuple[tuple[float, str], ...]
    unit: str
    width: int = WIDTH
    height: int = HEIGHT


def curves_of(report: Report) -> Curves:
    """Draws the timelines of a report.

    Args:
        report: A report with timelines.

    Returns:
        The curves, both passes stretched to the same length.
    """
    before, after = report.timeline_before, report.timeline_after
    assert before is not None and after is not None
    sizes = [size for timeline in (before, after) for _, size in timeline.points]
    # Room above for names.
    low, high = min([0, *sizes]), 1.2 * max(before.peak_bytes, after.peak_bytes, 1)
    unit, name = unit_of(before.peak_bytes)
    start = before.backward_from

    def height(size: float) -> float:
        return round(HEIGHT * (high - size) / (high - low), 1)

    def curve(timeline: Timeline) -> Curve:
        points = [(WIDTH * time, height(size)) for time, size in timeline.aligned(start)]
        line = path_of(points)
        area = f"{line} V{height(0)} H{points[0][0]:.0f} Z"
        peak = WIDTH * timeline.moved(timeline.peak_at, start)
        return Curve(line, area, (round(peak, 1), height(timeline.peak_bytes)), timeline)

    return Curves(
        before=curve(before),
        after=curve(after) if report.changed else None,
        backward=round(WIDTH * start, 1),
        ticks=tuple((height(tick * unit), f"{tick:g}") for tick in _ticks(high / unit)),
        unit=name,
    )


def path_of(points: Sequence[tuple[float, float]]) -> str:
    """Draws a curve that keeps each height until the next point.

    Args:
        points: Places in the drawing.

    Returns:
        The attribute d of a path.
    """
    (x, y), *rest = points
    return f"M{x:.1f} {y:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in rest)


def _ticks(high: float) -> Sequence[float]:
    """Round numbers from 0 up, three to six of them."""
    step = 1e-9
    for factor in (2, 2.5, 2) * 20:
        if high / step < 6:
            break
        step *= factor
    return [i * step for i in range(int(high / step) + 1)]
