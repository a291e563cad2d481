"""Figures of reports, measurements and benchmarks.

    report.plot("figures")                          # memory and kept bytes, SVG and PNG
    figure = nfad.plots.pareto("bench.json")        # a matplotlib figure, to change or save
    nfad.plots.save(figure, "figures", "pareto")

Colours are Okabe and Ito's, which colour-blind readers tell apart.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from nested_fad_tf.report import layers
from nested_fad_tf.report.figures import AFTER, BEFORE, SHADE, Axes, Figure, Path, look, save
from nested_fad_tf.report.memory import Measurement
from nested_fad_tf.report.pareto import pareto
from nested_fad_tf.report.summary import Kept, Report
from nested_fad_tf.report.timeline import Timeline
from nested_fad_tf.report.units import ratio, readable, unit_of

__all__ = ["kept", "measured", "memory", "pareto", "save"]

_FEW_LAYERS, _MOST_LAYERS = 16, 24
_NAMED = 5
_LONGEST_NAME = 46


def memory(report: Report) -> Figure:
    """Draws memory over one simulated step, as it was and as it is now.

    Both passes are as long in both curves, so that they can be compared; what is live at the peaks
    is listed below.

    Examples:
        >>> layer = tf.keras.layers.Dense(256, activation="mish")
        >>> def step(x):
        ...     with tf.GradientTape() as tape:
        ...         loss = tf.reduce_sum(layer(layer(layer(x))))
        ...     return tape.gradient(loss, layer.trainable_variables)
        >>> figure = nfad.plots.memory(nfad.explain(step, tf.TensorSpec([1024, 256])))
        >>> [path.name for path in nfad.plots.save(figure, "figures", "memory")]
        ['memory.svg', 'memory.png']

    Args:
        report: A report on a function with a backward pass.

    Returns:
        The figure.

    Raises:
        ValueError: If the function has no backward pass, so that nothing was simulated.
    """
    before, after = report.timeline_before, report.timeline_after
    if before is None or after is None:
        raise ValueError(
            f"{report.function_name} has no backward pass of its own: there is no step to draw"
        )
    unit, name = unit_of(before.peak_bytes)
    with look():
        figure = Figure(figsize=(8, 5.4), layout="constrained")
        upper, lower = figure.subplots(2, 1, height_ratios=(3.2, 1))
        backward = before.backward_from
        _shade_passes(upper, backward)
        _draw_timeline(upper, before, backward, unit, BEFORE, "plain TensorFlow")
        if report.changed:
            _draw_timeline(upper, after, backward, unit, AFTER, "rewritten")
            upper.legend(loc="upper right", bbox_to_anchor=(1, 0.93))
        _finish_memory(upper, name, before.peak_bytes / unit)
        upper.set_xlim(0, 1)
        upper.set_xticks([])
        upper.set_title(
            f"{_end(report.function_name)}: memory over one step, simulated", loc="left"
        )
        lower.axis("off")
        _list_live(lower, 0.0, "plain TensorFlow", before, BEFORE)
        if report.changed:
            _list_live(lower, 0.52, "rewritten", after, AFTER)
    return figure


def measured(plain: Measurement, rewritten: Measurement) -> Figure:
    """Draws memory over one measured step, plain and rewritten.

    Examples:
        >>> layer = tf.keras.layers.Dense(256, activation="mish")
        >>> def step(x):
        ...     with tf.GradientTape() as tape:
        ...         loss = tf.reduce_sum(layer(layer(layer(x))))
        ...     return tape.gradient(loss, layer.trainable_variables)
        >>> x = tf.ones([1024, 256])
        >>> plain = nfad.measure(tf.function(step), x)
        >>> rewritten = nfad.measure(nfad.function(step), x)
        >>> if plain.timeline and rewritten.timeline:
        ...     figure = nfad.plots.measured(plain, rewritten)

    Args:
        plain: What `nfad.measure` gave of the original.
        rewritten: What it gave of the rewritten function.

    Returns:
        The figure.

    Raises:
        ValueError: If a measurement has no timeline, as its method was too coarse.
    """
    unit, name = unit_of(max(plain.peak_bytes, rewritten.peak_bytes))
    with look():
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        axes = figure.subplots()
        pairs = (("plain TensorFlow", plain, BEFORE), ("rewritten", rewritten, AFTER))
        for label, measurement, color in pairs:
            if not measurement.timeline:
                raise ValueError(f"the measurement by {measurement.method} has no timeline to draw")
            times, sizes = zip(*measurement.timeline, strict=True)
            milliseconds = [1000 * time for time in times]
            scaled = [size / unit for size in sizes]
            _draw_steps(axes, milliseconds, scaled, color, label)
            _mark_peak(axes, milliseconds[scaled.index(max(scaled))], max(scaled), unit, color)
        axes.legend(loc="upper right")
        _finish_memory(axes, name, max(plain.peak_bytes, rewritten.peak_bytes) / unit)
        axes.set_xlabel("time in the step, ms (under the profiler)")
        axes.set_title("Memory over one step, measured", loc="left")
    return figure


def kept(report: Report) -> Figure:
    """Draws what each layer keeps for the backward pass, before and after.

    Examples:
        >>> layer = tf.keras.layers.Dense(256, activation="mish")
        >>> def step(x):
        ...     with tf.GradientTape() as tape:
        ...         loss = tf.reduce_sum(layer(layer(layer(x))))
        ...     return tape.gradient(loss, layer.trainable_variables)
        >>> figure = nfad.plots.kept(nfad.explain(step, tf.TensorSpec([1024, 256])))

    Args:
        report: A report.

    Returns:
        The figure.

    Raises:
        ValueError: If nothing is kept.
    """
    items = [(0, k) for k in report.kept_before] + [(1, k) for k in report.kept]
    if not items:
        raise ValueError(f"{report.function_name} keeps nothing for a backward pass")
    groups = layers.grouped(
        items, lambda item: item[1].layer, lambda item: item[1].bytes, few=_FEW_LAYERS
    )
    sums = [(name, _sum(group, 0), _sum(group, 1)) for name, group in groups.items()]
    sums = _largest(sums)
    unit, unit_name = unit_of(max(max(b, a) for _, b, a in sums))
    with look():
        figure = Figure(figsize=(8, 1.3 + 0.36 * len(sums)), layout="constrained")
        axes = figure.subplots()
        rows = range(len(sums))
        series = [("plain TensorFlow", BEFORE, [before / unit for _, before, _ in sums])]
        if report.changed:
            series.append(("rewritten", AFTER, [after / unit for _, _, after in sums]))
        height = 0.78 / len(series)
        for index, (label, color, sizes) in enumerate(series):
            offset = (index - (len(series) - 1) / 2) * height
            places = [row + offset for row in rows]
            bars = axes.barh(places, sizes, height, color=color, label=label)
            axes.bar_label(bars, [f"{size:.1f}" for size in sizes], padding=3, fontsize=8)
        axes.set_yticks(rows, [_end(name) for name, _, _ in sums])
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.margins(x=0.1)
        axes.set_xlabel(f"kept for the backward pass, {unit_name}")
        totals = report.kept_bytes_before, report.kept_bytes_after
        compared = f" ({ratio(*totals)})" if ratio(*totals) else ""
        axes.set_title(
            f"Kept by layer: {readable(totals[0])} → {readable(totals[1])}{compared}", loc="left"
        )
        if len(series) > 1:
            axes.legend(loc="best")
    return figure


def save_report(report: Report, folder: Path) -> list[pathlib.Path]:
    """Writes the figures that a report has something for.

    Args:
        report: The report; of a SavedModel, the function with the highest peak is drawn over time.
        folder: Where to; made if it isn't there.

    Returns:
        The files.
    """
    figures = {}
    step = report.largest_step()
    if step is not None:
        figures["memory"] = memory(step)
    if report.kept_before:
        figures["kept"] = kept(report)
    return [path for name, figure in figures.items() for path in save(figure, folder, name)]


# --- Memory over time -----------------------------------------------------------------------------


def _shade_passes(axes: Axes, backward: float) -> None:
    axes.axvspan(backward, 1, color=SHADE, zorder=0, linewidth=0)
    above = axes.get_xaxis_transform()
    for left, right, label in ((0, backward, "forward pass"), (backward, 1, "backward pass")):
        if right - left > 0.12:
            axes.text((left + right) / 2, 0.97, label, ha="center", va="top", transform=above)


def _draw_timeline(
    axes: Axes, timeline: Timeline, backward: float, unit: float, color: str, label: str
) -> None:
    times, sizes = zip(*timeline.aligned(backward), strict=True)
    _draw_steps(axes, times, [size / unit for size in sizes], color, label)
    peak_at = timeline.moved(timeline.peak_at, backward)
    _mark_peak(axes, peak_at, timeline.peak_bytes / unit, unit, color)


def _draw_steps(
    axes: Axes, times: Sequence[float], sizes: Sequence[float], color: str, label: str
) -> None:
    axes.fill_between(times, sizes, step="post", color=color, alpha=0.15, linewidth=0)
    axes.plot(times, sizes, drawstyle="steps-post", color=color, linewidth=1.6, label=label)


def _mark_peak(axes: Axes, time: float, size: float, unit: float, color: str) -> None:
    axes.plot([time], [size], "o", color=color, markersize=6)
    axes.annotate(
        f"peak {readable(size * unit)}", (time, size), (7, 5), textcoords="offset points",
        color="black", fontweight="bold",
    )  # fmt: skip


def _finish_memory(axes: Axes, unit_name: str, highest: float) -> None:
    # A step may free more than it allocated: what it replaces lived before it.
    axes.set_ylim(min(0.0, axes.dataLim.y0), 1.25 * highest)
    axes.set_ylabel(f"memory above weights and inputs, {unit_name}")


def _list_live(axes: Axes, left: float, title: str, timeline: Timeline, color: str) -> None:
    """Lists what is live at the peak, the most first."""
    axes.plot([left + 0.008], [0.94], "s", color=color, transform=axes.transAxes, markersize=7)
    axes.text(left + 0.025, 1.0, f"live at the peak, {title}", va="top", fontsize=9,
              fontweight="bold", transform=axes.transAxes)  # fmt: skip
    rows = [
        (readable(live.bytes), _end(live.name) + (f" ×{live.count}" if live.count > 1 else ""))
        for live in timeline.live[:_NAMED]
    ]
    rest = timeline.live[_NAMED:]
    if rest:
        size, count = sum(live.bytes for live in rest), sum(live.count for live in rest)
        rows.append((readable(size), f"{count} others"))
    look: Any = {"va": "top", "fontsize": 8, "transform": axes.transAxes}
    for row, (size_text, name) in enumerate(rows):
        height = 0.82 - 0.14 * row
        axes.text(left + 0.068, height, size_text, ha="right", **look)
        axes.text(left + 0.078, height, name, **look)


def _end(name: str) -> str:
    """The end of a long name: the scopes at its beginning tell least."""
    return name if len(name) <= _LONGEST_NAME else f"...{name[3 - _LONGEST_NAME :]}"


# --- Kept by layer --------------------------------------------------------------------------------


def _sum(group: Iterable[tuple[int, Kept]], side: int) -> int:
    return sum(item.bytes for which, item in group if which == side)


def _largest(sums: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """The largest layers, in the order they had; the others as one row."""
    if len(sums) <= _MOST_LAYERS:
        return sums
    chosen = sorted(sums, key=lambda s: -max(s[1], s[2]))[: _MOST_LAYERS - 1]
    others = [s for s in sums if s not in chosen]
    row = (f"{len(others)} others", sum(s[1] for s in others), sum(s[2] for s in others))
    return [*(s for s in sums if s in chosen), row]
