"""Memory against time, from what `nested-fad-tf bench` measured."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from nested_fad_tf.report.figures import GUIDE, SERIES, Axes, Figure, Path, look
from nested_fad_tf.report.front import front

_PLAIN = "plain"
_CONTROL = "plain again"
_Key = tuple[str, str]  # model, strategy
_Point = tuple[float, float]  # time, peak
_Box = tuple[float, float, float, float]


def pareto(results: Path | Mapping[str, Any] | Sequence[Path]) -> Figure:
    """Draws memory against time, relative to plain TensorFlow, with the front of the best trades.

    Examples:
        >>> memory = {"model": "mlp", "fuse": "auto", "jit_compile": False, "plain_peak": 300}
        >>> time = {"model": "mlp", "fuse": "auto", "jit_compile": False, "ratio": 1.0}
        >>> results = {
        ...     "memory": [{**memory, "strategy": "auto", "peak": 100}],
        ...     "time": [{**time, "strategy": "plain"}, {**time, "strategy": "auto"}],
        ... }
        >>> figure = nfad.plots.pareto({"results": results})

    Args:
        results: What `nested-fad-tf bench --json=FILE` writes: the file, several files (of later
            ones the rows count), or the contents.

    Returns:
        The figure.

    Raises:
        ValueError: If no version of a model has both a time and a memory peak.
    """
    points = _points(results)
    if not points:
        raise ValueError(
            "no version of a model has both a memory peak and a time: run"
            " nested-fad-tf bench --what=memory,time --json=FILE"
        )
    strategies = sorted({strategy for _, strategy in points})
    models = {model for model, _ in points}
    points = {**points, ("", _PLAIN): (1.0, 1.0)}
    with look():
        figure = Figure(figsize=(8, 5.6), layout="constrained")
        axes = figure.subplots()
        axes.axhline(1, color=GUIDE, linewidth=0.8, zorder=0)
        axes.axvline(1, color=GUIDE, linewidth=0.8, zorder=0)
        for (_, strategy), (time, peak) in points.items():
            plain = strategy == _PLAIN
            color = "black" if plain else SERIES[strategies.index(strategy) % len(SERIES)]
            axes.plot(time, peak, "D" if plain else "o", color=color, markersize=7)
        names = {
            key: _PLAIN if key[1] == _PLAIN else _point_name(*key, len(models), len(strategies))
            for key in points
        }
        axes.margins(x=0.15, y=0.08)
        axes.set_ylim(bottom=0)
        best = front(points.values())
        _draw_front(axes, best)
        if 1 < len(strategies) <= len(SERIES):  # else colours repeat; the points have names
            for strategy, color in zip(strategies, SERIES, strict=False):
                axes.plot([], [], "o", color=color, label=strategy)
        axes.legend(loc="lower right")
        _label_points(figure, axes, [(*points[key], names[key]) for key in points], best)
        axes.set_xlabel("time of a step, relative to plain TensorFlow")
        axes.set_ylabel("peak memory, relative to plain TensorFlow")
        subject = next(iter(models)) if len(models) == 1 else f"{len(models)} models"
        subject += f", {strategies[0]}" if len(strategies) == 1 else ""
        axes.set_title(f"Memory against time: {subject}", loc="left")
    return figure


def _points(results: Path | Mapping[str, Any] | Sequence[Path]) -> dict[_Key, _Point]:
    """Time and peak of every version that has both, relative to plain TensorFlow."""
    if isinstance(results, str | os.PathLike):
        results = [results]
    contents = [results] if isinstance(results, Mapping) else list(map(_read, results))
    times: dict[_Key, float] = {}
    peaks: dict[_Key, float] = {}
    for content in contents:
        rows = content["results"]
        times |= {(r["model"], r["strategy"]): r["ratio"] for r in rows.get("time", [])}
        memory_rows = rows.get("memory", [])
        peaks |= {(r["model"], r["strategy"]): r["peak"] / r["plain_peak"] for r in memory_rows}
    return {
        key: (times[key], peaks[key])
        for key in peaks
        if key in times and key[1] not in (_PLAIN, _CONTROL)
    }


def _read(path: Path) -> Any:
    content = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    if not isinstance(content, Mapping) or not isinstance(content.get("results"), Mapping):
        raise ValueError(f"{os.fspath(path)} was not written by nested-fad-tf bench --json")
    return content


def _draw_front(axes: Axes, front: Sequence[_Point]) -> None:
    """Draws the border of what can be had: to the right of it and above is what something beats."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    times, peaks = zip(*front, strict=True)
    axes.plot(
        [times[0], *times, right], [top, *peaks, peaks[-1]], drawstyle="steps-post",
        color="#777777", linestyle="--", linewidth=1.2, zorder=1,
        label="front: nothing is both faster and smaller",
    )  # fmt: skip
    axes.set(xlim=(left, right), ylim=(bottom, top))


def _point_name(model: str, strategy: str, models: int, strategies: int) -> str:
    if models == 1:
        return strategy
    return model if strategies == 1 else f"{model}, {strategy}"


# Where a name may stand, nearest first: offset from its point, and which end is there.
_PLACES = [
    (dx, dy, align)
    for distance in (0, 9, 18, 27)
    for dx, dy, align in (
        (8, distance - 3, "left"), (-8, distance - 3, "right"),
        (8, -distance - 3, "left"), (-8, -distance - 3, "right"),
        (0, distance + 7, "center"), (0, -distance - 14, "center"),
    )
]  # fmt: skip
_LETTER, _LINE = 5.4, 11.0  # width and height of the names' letters, in points


def _label_points(
    figure: Figure, axes: Axes, points: Sequence[tuple[float, float, str]], front: Sequence[_Point]
) -> None:
    """Writes each name beside its point, where it covers no other name, no point and no line."""
    figure.draw_without_rendering()
    scale = figure.dpi / 72
    frame = axes.bbox
    dots = [tuple(axes.transData.transform((x, y))) for x, y, _ in points]
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in dots]
    taken += _lines([tuple(axes.transData.transform(point)) for point in front], frame.x1, frame.y1)
    for (x, y, name), (left, bottom) in sorted(zip(points, dots, strict=True), key=str):
        width = _LETTER * scale * len(name)
        cost, boxes = [], []
        for dx, dy, align in _PLACES:
            start = left + dx * scale - {"left": 0, "right": width, "center": width / 2}[align]
            low = bottom + dy * scale
            box = (start, low, start + width, low + _LINE * scale)
            outside = box[2] > frame.x1 or box[0] < frame.x0
            cost.append(outside * 1e6 + sum(_overlap(box, other) for other in taken))
            boxes.append(box)
        best = cost.index(min(cost))
        dx, dy, align = _PLACES[best]
        taken.append(boxes[best])
        axes.annotate(name, (x, y), (dx, dy), textcoords="offset points", ha=align, fontsize=9)


def _lines(front: Sequence[_Point], right: float, top: float) -> list[_Box]:
    """The front's lines as narrow boxes, in pixels."""
    tops = [top, *(peak for _, peak in front)]
    rights = [*(time for time, _ in front[1:]), right]
    upright = [(x - 4, y, x + 4, above) for (x, y), above in zip(front, tops, strict=False)]
    level = [(x, y - 4, end, y + 4) for (x, y), end in zip(front, rights, strict=True)]
    return upright + level


def _overlap(a: _Box, b: _Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0
