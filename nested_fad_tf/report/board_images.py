"""Figures for TensorBoard's image tab, drawn by matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from absl import logging

_MIB = 2**20
# TensorBoard shows images about 300 pixels wide, until one clicks on them.
_SIZE = (4.6, 3.0)
_DPI = 110
_COLORS = {"original": "#5f6b7a", "rewritten": "#0b7a75"}
_OTHER = "#d0722c"
_SHADE = "#f0f0f0"

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Timeline:
    """Memory over one step.

    Attributes:
        title: What it shows.
        axis: What the first number of a point is.
        points: By run: pairs of that number and the bytes live from then on.
        peaks: By run, the most that is live at once; that may be for part of a point only.
        backward: By run, where the backward pass begins, as far as that is known.
    """

    title: str
    axis: str
    points: Mapping[str, Points]
    peaks: Mapping[str, int]
    backward: Mapping[str, float] = field(default_factory=dict)


def installed() -> bool:
    """Whether figures can be drawn; if not, says once what is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        logging.log_first_n(
            logging.WARNING,
            "no images are written for TensorBoard: they need matplotlib;"
            " pip install nested-fad-tf[plots]",
            1,
        )
        return False
    return True


def timeline(content: Timeline, run: str) -> bytes:
    """Draws one run's memory over a step, the others' as lines behind it.

    Args:
        content: What to draw.
        run: Whose memory to fill, and whose backward pass to shade.

    Returns:
        A PNG.
    """
    figure, axes = _figure(_SIZE)
    for name, points in content.points.items():
        color = _COLORS.get(name, _OTHER)
        times, sizes = [p[0] for p in points], [p[1] / _MIB for p in points]
        label = f"{name}: peak {content.peaks[name] / _MIB:.1f} MiB"
        axes.step(times, sizes, where="post", color=color, linewidth=1, label=label)
        if name == run:
            axes.fill_between(times, sizes, step="post", color=color, alpha=0.35)
    if run in content.backward:
        _shade_backward(axes, content.backward[run], content.points[run][-1][0])
    axes.set_title(content.title, loc="left")
    axes.set_xlabel(content.axis)
    axes.set_ylabel("MiB above what lived before")
    axes.set_ylim(bottom=0)
    axes.margins(x=0)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return _png(figure)


def _shade_backward(axes: Any, begin: float, end: float) -> None:
    axes.axvspan(begin, end, color=_SHADE, zorder=0, linewidth=0)
    above = axes.get_xaxis_transform()
    axes.text(end, 0.98, "backward pass ", ha="right", va="top", fontsize=7, transform=above)


def layers(sizes: Mapping[str, Sequence[int]], names: Sequence[str]) -> bytes:
    """Draws what is kept of each layer, as one bar a run.

    Args:
        sizes: By run, bytes of each layer.
        names: The layers.

    Returns:
        A PNG.
    """
    figure, axes = _figure((_SIZE[0], 1.2 + 0.17 * len(names)))
    height = 0.8 / max(1, len(sizes))
    for number, (run, values) in enumerate(sizes.items()):
        places = [row + (number + 0.5) * height - 0.4 for row in range(len(names))]
        label = f"{run}: {sum(values) / _MIB:.1f} MiB"
        bars = [value / _MIB for value in values]
        axes.barh(places, bars, height, color=_COLORS.get(run, _OTHER), label=label)
    axes.set_yticks(range(len(names)), [_end(name) for name in names], fontsize=7)
    axes.invert_yaxis()
    axes.set_title("MiB kept for the backward pass", loc="left")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return _png(figure)


def _end(name: str, width: int = 30) -> str:
    return name if len(name) <= width else f"...{name[3 - width :]}"


def _figure(size: tuple[float, float]) -> tuple[Any, Any]:
    # Not pyplot: it would choose a backend for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI)
    return file.getvalue()
