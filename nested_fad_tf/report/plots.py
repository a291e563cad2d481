"""Figures of reports, measurements and benchmarks.

    report.plot("figures")                          # memory and kept bytes, SVG and PNG
    figure = nfad.plots.pareto("bench.json")        # a matplotlib figure, to change or save
    nfad.plots.save(figure, "figures", "pareto")

Colours are Okabe and Ito's, which colour-blind readers tell apart.
"""

from __future__ import annotations

import pathlib

from nested_fad_tf.report.figures import AFTER, BEFORE, Figure, Path, end_of, look, save
from nested_fad_tf.report.kept_layers import by_layer
from nested_fad_tf.report.memory_figures import measured, memory
from nested_fad_tf.report.pareto import pareto
from nested_fad_tf.report.summary import Report
from nested_fad_tf.report.units import ratio, readable, unit_of

__all__ = ["kept", "measured", "memory", "pareto", "save"]


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
    runs = {"plain TensorFlow": report.kept_before, "rewritten": report.kept}
    names, sizes = by_layer(runs)
    if not names:
        raise ValueError(f"{report.function_name} keeps nothing for a backward pass")
    unit, unit_name = unit_of(max(max(each) for each in sizes.values()))
    with look():
        figure = Figure(figsize=(8, 1.3 + 0.36 * len(names)), layout="constrained")
        axes = figure.subplots()
        rows = range(len(names))
        series = list(zip(sizes.items(), (BEFORE, AFTER), strict=True))[: 1 + report.changed]
        height = 0.78 / len(series)
        for index, ((label, each), color) in enumerate(series):
            offset = (index - (len(series) - 1) / 2) * height
            places = [row + offset for row in rows]
            scaled = [size / unit for size in each]
            bars = axes.barh(places, scaled, height, color=color, label=label)
            axes.bar_label(bars, [f"{size:.1f}" for size in scaled], padding=3, fontsize=8)
        axes.set_yticks(rows, [end_of(name) for name in names])
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
