"""What notebooks show of a report or a measurement: a few figures, a small curve, a short table."""

from __future__ import annotations

import functools

from nested_fad_tf.report.curves import path_of
from nested_fad_tf.report.memory import Measurement
from nested_fad_tf.report.page import environment
from nested_fad_tf.report.summary import Report

_ROWS = 8
# Orange and blue that stand out on white and on black.
_BEFORE, _AFTER = "#E69F00", "#2A8BCC"
_WIDTH, _HEIGHT = 480, 90
# Screens have no more points to show.
_POINTS = 480


def report_html(report: Report) -> str:
    """Shows a report.

    Args:
        report: The report.

    Returns:
        HTML without a script, whose colours go with light and dark notebooks.
    """
    step = report.largest_step()
    curves = []
    if step is not None and step.timeline_before and step.timeline_after:
        before = step.timeline_before
        pairs = [(_BEFORE, before), (_AFTER, step.timeline_after)]
        curves = [
            (color, _curve(timeline.aligned(before.backward_from), before.peak_bytes))
            for color, timeline in pairs[: 2 if report.changed else 1]
        ]
    template = _template("report.html")
    return template(report=report, step=step, curves=curves, kept=report.kept[:_ROWS], **_size())


def measurement_html(measurement: Measurement) -> str:
    """Shows a measurement.

    Args:
        measurement: The measurement.

    Returns:
        HTML without a script, whose colours go with light and dark notebooks.
    """
    points = measurement.timeline
    end = points[-1][0] if points else 0.0
    scaled = tuple((time / (end or 1), size) for time, size in points)
    curve = _curve(scaled, max((size for _, size in points), default=0)) if points else ""
    live = measurement.peak_live[:_ROWS]
    return _template("measurement.html")(measurement=measurement, curve=curve, live=live, **_size())


@functools.cache
def _template(name: str) -> functools.partial[str]:
    return functools.partial(environment().get_template(name).render)


def _size() -> dict[str, int]:
    return {"width": _WIDTH, "height": _HEIGHT}


def _curve(points: tuple[tuple[float, int], ...], peak: int) -> str:
    """The curve in the space of a few lines; of many points the highest in each pixel."""
    highest: dict[int, int] = {}
    for time, size in points:
        pixel = int(time * _POINTS)
        highest[pixel] = max(size, highest.get(pixel, size))
    low = min(0, *highest.values())
    scale = (_HEIGHT - 4) / ((peak - low) or 1)
    return path_of(
        [(_WIDTH * x / _POINTS, 2 + (peak - size) * scale) for x, size in highest.items()]
    )
