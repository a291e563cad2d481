"""Runs benchmarks, prints their tables and writes them to a file."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import tensorflow as tf
from rich.console import Console

from nested_fad_tf.bench import (
    agreement,
    by_layer,
    catalog,
    fit,
    models,
    peers,
    runner,
    summary,
    variants,
    versions,
)
from nested_fad_tf.graph import devices
from nested_fad_tf.plan import price_files
from nested_fad_tf.report import files

_Row = TypeVar("_Row")

# Column title -> text of the cell, by kind of row.
Column = tuple[str, Callable[[Any], str]]


def run_bench(
    models: Sequence[str] = ("all",),
    strategies: Sequence[str] = ("auto",),
    how: variants.How = variants.DEFAULT,
    json_path: str | os.PathLike[str] | None = None,
    what: Sequence[str] = ("memory", "time"),
    dtypes: Sequence[str] = ("float64",),
) -> dict[str, list[dict[str, Any]]]:
    """Measures models, prints Markdown tables as it goes, and writes everything as JSON.

    Args:
        models: Names of `nested_fad_tf.bench.models`; "all" stands for every one.
        strategies: Versions to compare with plain TensorFlow, as `nested_fad_tf.bench.versions`
            reads them.
        how: What else the versions are made with.
        json_path: Where to write the rows; None to write none.
        what: What to measure, of `nested_fad_tf.bench.catalog.WHAT`.
        dtypes: Types of weights and activations to compare gradients in.

    Returns:
        Rows as dictionaries, by what was measured; under "refused" what doesn't run, if anything.

    Raises:
        ValueError: If a model, a version or something to measure is not known, or peers can't be
            measured by it.
    """
    chosen = chosen_models(models)
    _check(strategies, what)
    console, progress = Console(), Console(stderr=True)
    results: dict[str, list[dict[str, Any]]] = {}
    refused: list[peers.Refusal] = []
    for kind in what:
        rows: list[Any] = []
        for model in chosen:
            if not progress.is_terminal:
                progress.print(f"{kind}: {model}")
            with progress.status(f"{kind}: {model}"):
                measured, not_run = _rows(kind, model, list(strategies), how, list(dtypes))
            rows += measured
            refused += not_run
        _print_table(console, kind, rows)
        results[kind] = [dataclasses.asdict(row) for row in rows]
        if kind == "gradients" and (layers := layer_table(results[kind])):
            console.print("\ngradients, each by itself: norm of the difference, cosine\n")
            console.out(layers, highlight=False)
    if refused:
        _print_table(console, "refused", refused)
        results["refused"] = [dataclasses.asdict(row) for row in refused]
    if {"memory", "time"} <= set(what):
        console.print("\nsummary\n")
        console.out(summary_table(results), highlight=False)
    if json_path is not None:
        write(pathlib.Path(json_path), results)
    return results


def summary_table(results: Mapping[str, summary.Rows]) -> str:
    """A table with one row for each version, from all that was measured of it.

    Args:
        results: What `run_bench` gave, memory and time among it.

    Returns:
        The table in Markdown.
    """
    return markdown(summary.rows(results), _COLUMNS["summary"])


def layer_table(gradients: summary.Rows) -> str:
    """How far lossy gradients are off.

    Args:
        gradients: Rows of what was measured of gradients.

    Returns:
        A table in Markdown with a row for each gradient and a column for each lossy version: the
        norm of the difference as a part of the gradient's, and the cosine. Empty if none is lossy.
    """
    rows = by_layer.rows(gradients)
    shown = dict.fromkeys(version for row in rows for version in row.errors)
    columns: list[Column] = [
        ("model", lambda row: row.model),
        ("gradient of", lambda row: row.path),
        *((version, functools.partial(_error_cell, version)) for version in shown),
    ]
    return markdown(rows, columns) if rows else ""


def _error_cell(version: str, row: by_layer.Gradient) -> str:
    if version not in row.errors:
        return "-"
    norm, cosine = row.errors[version]
    return f"{norm:.1e}, {cosine:.5f}"


def _print_table(console: Console, kind: str, rows: Sequence[Any]) -> None:
    console.print(f"\n{kind}\n")
    console.out(markdown(rows, _COLUMNS[kind]), highlight=False)


def _check(strategies: Sequence[str], what: Sequence[str]) -> None:
    if unknown := set(what) - set(catalog.WHAT):
        raise ValueError(f"cannot measure {sorted(unknown)}; there are: {', '.join(catalog.WHAT)}")
    for version in filter(versions.is_rewrite, strategies):
        versions.options(version)
    named = [version for version in strategies if version in catalog.PEERS]
    if named and (other := set(what) - set(catalog.WHAT_OF_PEERS)):
        can = ", ".join(catalog.WHAT_OF_PEERS)
        raise ValueError(f"peers are measured by {can}, not by {', '.join(sorted(other))}")


def chosen_models(chosen: Sequence[str]) -> list[str]:
    """The models that names stand for.

    Args:
        chosen: Names of `nested_fad_tf.bench.models`; "all" stands for every one.

    Returns:
        Names.

    Raises:
        ValueError: If there is no such model, or it has no such size.
    """
    if "all" in chosen:
        return models.names()
    for name in chosen:
        catalog.sizes(name)  # raises if it isn't known
    return list(chosen)


def _rows(
    kind: str, model: str, strategies: list[str], how: variants.How, dtypes: list[str]
) -> tuple[list[Any], list[peers.Refusal]]:
    """Rows of one model, and what doesn't run."""
    if kind == "time":
        return runner.time_rows([model], strategies, how)
    rows: list[Any] = []
    refused: list[peers.Refusal] = []
    for dtype in dtypes if kind == "gradients" else [""]:
        for strategy in strategies:
            try:
                rows.append(_row(kind, model, strategy, how, dtype))
            except peers.RefusedError as error:
                refused.append(error.row)
    return rows, refused


def _row(kind: str, model: str, strategy: str, how: variants.How, dtype: str) -> Any:
    if kind == "gradients":
        return agreement.gradients_row(model, strategy, how, dtype)
    if kind == "fit":
        return _fit_row(model, strategy)
    make = runner.memory_row if kind == "memory" else agreement.losses_row
    return make(model, strategy, how)


def _fit_row(model: str, strategy: str) -> fit.FitRow:
    """A row of `fit`, beside what is gained without it."""
    loop = runner.memory_row(model, strategy)
    return fit.fit_row(model, strategy, loop.plain_peak / loop.peak)


def markdown(rows: Sequence[Any], columns: Sequence[Column]) -> str:
    """Formats rows as a Markdown table.

    Args:
        rows: What the columns take apart.
        columns: Titles, and functions from a row to its cell's text.

    Returns:
        The table, columns padded to equal width.
    """
    cells = [[title for title, _ in columns]]
    cells += [[text(row) for _, text in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def write(path: pathlib.Path, results: dict[str, list[dict[str, Any]]]) -> None:
    """Writes rows with what they depend on.

    Args:
        path: The file.
        results: Rows as dictionaries, by what was measured.
    """
    content = {
        "tensorflow": tf.__version__,
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "gpus": [device.name for device in tf.config.list_physical_devices("GPU")],
        "prices": price_files.current(devices.kind_of_most([""])).source,
        "results": results,
    }
    files.write_json(path, content)


def read(path: pathlib.Path | None, kind: str, row: Callable[..., _Row]) -> list[_Row]:
    """Reads rows of one kind that `write` wrote, to add to them.

    Args:
        path: The file, if there is to be one.
        kind: What was measured.
        row: The rows' dataclass.

    Returns:
        The rows; none if there is no such file yet.
    """
    if path is None or not path.exists():
        return []
    results = json.loads(path.read_text(encoding="utf-8"))["results"]
    return [row(**fields) for fields in results[kind]]


def mib(size: int | None) -> str:
    """A size, as tables show it.

    Args:
        size: Bytes; None if they aren't known.

    Returns:
        The size in MiB.
    """
    return "-" if size is None else f"{size / 2**20:.0f}"


def pair(before: int | None, after: int | None) -> str:
    """Two sizes, as tables show them.

    Args:
        before: Bytes; None if they aren't known.
        after: The same.

    Returns:
        Both in MiB.
    """
    return f"{mib(before)} -> {mib(after)}"


def _difference(value: float | None) -> str:
    return "-" if value is None else f"{value:.0e}" if value else "0"


def _gain(row: runner.MemoryRow) -> str:
    return f"{row.plain_peak / row.peak:.2f}x" if row.peak else "-"


_COMMON: list[Column] = [
    ("model", lambda row: row.model),
    ("strategy", lambda row: row.strategy),
]
_COLUMNS: dict[str, list[Column]] = {
    "summary": [
        *_COMMON,
        ("peak MiB", lambda row: mib(row.peak)),
        ("gain", lambda row: f"{row.gain:.2f}x"),
        ("time", lambda row: f"{row.ratio:.2f}x"),
        ("gradients", lambda row: _difference(row.gradients)),
        ("averages", lambda row: _difference(row.state)),
        ("none is smaller and faster", lambda row: "*" if row.front else ""),
    ],
    "refused": [
        *_COMMON,
        ("measured", lambda row: row.measured),
        ("reason", lambda row: row.reason),
    ],
    "memory": [
        *_COMMON,
        ("peak MiB", lambda row: pair(row.plain_peak, row.peak)),
        ("gain", _gain),
        ("predicted MiB", lambda row: pair(row.predicted_before, row.predicted_after)),
        ("process MiB", lambda row: pair(row.plain_resident, row.resident)),
        ("kept MiB", lambda row: pair(row.kept_before, row.kept_after)),
        ("ops", lambda row: str(row.graph_ops)),
    ],
    "fit": [
        *_COMMON,
        ("peak MiB", lambda row: pair(row.plain_peak, row.peak)),
        ("gain", lambda row: f"{row.gain:.2f}x"),
        ("gain of a loop by hand", lambda row: f"{row.loop_gain:.2f}x"),
        ("worst loss", lambda row: f"{row.worst_difference:.1e}"),
        ("plain, one ulp off", lambda row: f"{row.sensitivity:.1e}"),
        ("last loss", lambda row: f"{row.plain[-1]:.4f} / {row.rewritten[-1]:.4f}"),
    ],
    "time": [
        *_COMMON,
        ("step s", lambda row: f"{row.seconds:.3f}"),
        ("to plain", lambda row: f"{row.ratio:.2f}x"),
        ("range", lambda row: f"{row.ratio_low:.2f}-{row.ratio_high:.2f}"),
        ("trace s", lambda row: f"{row.trace_seconds:.1f}"),
        ("rewrite s", lambda row: f"{row.rewrite_seconds:.1f}"),
        ("first call s", lambda row: f"{row.first_call_seconds:.1f}"),
    ],
    "gradients": [
        *_COMMON,
        ("dtype", lambda row: row.dtype),
        ("loss", lambda row: f"{row.loss_difference:.1e}"),
        ("worst gradient", lambda row: f"{row.worst_difference:.1e}"),
        ("of", lambda row: row.worst_tensor),
        ("determined", lambda row: f"{row.worst_determined:.1e}"),
        ("others", lambda row: f"{row.undetermined}, {row.worst_excess:.1f}x"),
        ("plain twice", lambda row: f"{row.control_difference:.1e}"),
        ("all as one", lambda row: f"{row.norm_difference:.1e}"),
        ("averages", lambda row: f"{row.state_difference:.1e}"),
    ],
    "losses": [
        *_COMMON,
        ("worst difference", lambda row: f"{row.worst_difference:.1e}"),
        ("plain, one ulp off", lambda row: f"{row.sensitivity:.1e}"),
        ("plain twice", lambda row: f"{row.control_difference:.1e}"),
        ("last loss", lambda row: f"{row.plain[-1]:.4f} / {row.rewritten[-1]:.4f}"),
    ],
}
