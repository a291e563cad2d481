"""Figures of memory over one step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nested_fad_tf.report.figures import AFTER, BEFORE, SHADE, Axes, Figure, end_of, look
from nested_fad_tf.report.memory import Measurement
from nested_fad_tf.report.summary import Report
from nested_fad_tf.report.timeline import Timeline, timeline_of_call
from nested_fad_tf.report.units import readable, unit_of

_PLAIN, _REWRITTEN = "plain TensorFlow", "rewritten"
_NAMED = 5


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
        figure, upper, lower = _panels()
        backward = before.backward_from
        _shade_passes(upper, backward)
        _draw_timeline(upper, before, backward, unit, BEFORE, _PLAIN)
        if report.changed:
            _draw_timeline(upper, after, backward, unit, AFTER, _REWRITTEN)
            _add_legend(upper)
        _finish_memory(upper, name, before.peak_bytes / unit)
        _hide_time(upper)
        upper.set_title(
            f"{end_of(report.function_name)}: memory over one step, simulated", loc="left"
        )
        _list_live(lower, 0.0, _PLAIN, before, BEFORE)
        if report.changed:
            _list_live(lower, 0.52, _REWRITTEN, after, AFTER)
    return figure


def measured(plain: Measurement, rewritten: Measurement) -> Figure:
    """Draws memory over one measured step, plain and rewritten.

    Both passes are drawn equally long, so that they can be compared; the axis says how long they
    took. What is live at the peaks is listed below; compiled code names no ops for what it
    allocates.

    Where a measurement can't tell when the backward pass began (`Measurement.backward_from` says
    when that is), both are drawn by the clock, and nothing is shaded.

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
    for measurement in (plain, rewritten):
        if not measurement.timeline:
            raise ValueError(f"the measurement by {measurement.method} has no timeline to draw")
    before, after = (
        timeline_of_call(m.timeline, m.backward_from, m.peak_live) for m in (plain, rewritten)
    )
    pairs = ((_PLAIN, plain, before, BEFORE), (_REWRITTEN, rewritten, after, AFTER))
    highest = max(before.peak_bytes, after.peak_bytes)
    unit, name = unit_of(highest)
    with look():
        figure, upper, lower = _panels()
        if plain.backward_from is None or rewritten.backward_from is None:
            for label, measurement, timeline, color in pairs:
                points = [(1000 * time, size / unit) for time, size in measurement.timeline]
                _draw_steps(upper, points, color, label)
                peak_at = timeline.peak_at * points[-1][0]
                _mark_peak(upper, peak_at, timeline.peak_bytes / unit, unit, color)
            upper.set_xlabel("time in the step, ms (under the profiler)")
        else:
            _shade_passes(upper, before.backward_from)
            for label, _, timeline, color in pairs:
                _draw_timeline(upper, timeline, before.backward_from, unit, color, label)
            _hide_time(upper)
            took = ", ".join(f"{label} {_durations(m)}" for label, m, _, _ in pairs)
            upper.set_xlabel(f"both passes, under the profiler: {took}", fontsize=9)
        _add_legend(upper)
        _finish_memory(upper, name, highest / unit)
        upper.set_title("Memory over one step, measured", loc="left")
        _list_live(lower, 0.0, _PLAIN, before, BEFORE)
        _list_live(lower, 0.52, _REWRITTEN, after, AFTER)
    return figure


def _panels() -> tuple[Figure, Axes, Axes]:
    """A figure with a place for curves, and one for text below."""
    figure = Figure(figsize=(8, 5.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(3.2, 1))
    lower.axis("off")
    return figure, upper, lower


def _add_legend(axes: Axes) -> None:
    # In one row, below the names of the passes and above the names of the peaks.
    axes.legend(loc="upper right", bbox_to_anchor=(1, 0.94), ncols=2)


def _hide_time(axes: Axes) -> None:
    axes.set_xlim(0, 1)
    axes.set_xticks([])


def _durations(measurement: Measurement) -> str:
    """How long both passes took."""
    begins, end = measurement.backward_from, measurement.timeline[-1][0]
    assert begins is not None
    return f"{1000 * begins:.0f} + {1000 * (end - begins):.0f} ms"


def _shade_passes(axes: Axes, backward: float) -> None:
    axes.axvspan(backward, 1, color=SHADE, zorder=0, linewidth=0)
    above = axes.get_xaxis_transform()
    for left, right, label in ((0, backward, "forward pass"), (backward, 1, "backward pass")):
        if right - left > 0.12:
            axes.text((left + right) / 2, 0.97, label, ha="center", va="top", transform=above)


def _draw_timeline(
    axes: Axes, timeline: Timeline, backward: float, unit: float, color: str, label: str
) -> None:
    points = [(time, size / unit) for time, size in timeline.aligned(backward)]
    _draw_steps(axes, points, color, label)
    peak_at = timeline.moved(timeline.peak_at, backward)
    _mark_peak(axes, peak_at, timeline.peak_bytes / unit, unit, color)


def _draw_steps(axes: Axes, points: Sequence[tuple[float, float]], color: str, label: str) -> None:
    times, sizes = zip(*points, strict=True)
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
        (readable(live.bytes), end_of(live.name) + (f" ×{live.count}" if live.count > 1 else ""))
        for live in timeline.live[:_NAMED]
    ]
    rest = timeline.live[_NAMED:]
    if rest:
        size, count = sum(live.bytes for live in rest), sum(live.count for live in rest)
        rows.append((readable(size), f"{count} other{'s' if count > 1 else ''}"))
    look: Any = {"va": "top", "fontsize": 8, "transform": axes.transAxes}
    for row, (size_text, name) in enumerate(rows):
        height = 0.82 - 0.14 * row
        axes.text(left + 0.068, height, size_text, ha="right", **look)
        axes.text(left + 0.078, height, name, **look)
