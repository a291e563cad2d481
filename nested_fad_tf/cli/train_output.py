"""What `train` shows and writes when it is done."""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
from typing import Any

import tensorflow as tf
from rich import box, console, markup, table

from nested_fad_tf.examples.comparison import Comparison, Version
from nested_fad_tf.options import Options
from nested_fad_tf.report import files

_MIB = 2**20
_KEPT_ROWS = 8
_NAME_WIDTH = 36
# Of output that goes to a file or a pipe; a terminal has its own.
_WIDTH = 110


def show(comparison: Comparison) -> None:
    """Prints the comparison and the largest tensors that are kept.

    Args:
        comparison: A comparison after training and measuring.
    """
    out = console.Console()
    if not out.is_terminal:
        out = console.Console(width=_WIDTH)
    report = comparison.report
    out.print(_comparison_table(comparison))
    out.print(_losses_line(comparison))
    if not report.changed:
        out.print(f"the step was left as it was: {report.reason}", markup=False)
    out.print(_kept_table(report))


def write_json(
    path: pathlib.Path, comparison: Comparison, settings: dict[str, Any], options: Options
) -> None:
    """Writes all results to a file, which appears only once it is complete.

    Args:
        path: The file; replaced if it exists.
        comparison: A comparison after training and measuring.
        settings: What was trained and how long.
        options: How it was rewritten.
    """
    files.write_json(path, _results(comparison, settings, options))


def draw(folder: pathlib.Path, comparison: Comparison) -> list[pathlib.Path]:
    """Draws memory over a step, and what is kept by layer.

    Args:
        folder: Where to; made if it isn't there.
        comparison: A comparison after training and measuring.

    Returns:
        The files.
    """
    # Only here: matplotlib is an extra.
    from nested_fad_tf.report import plots

    drawn: list[pathlib.Path] = comparison.report.plot(folder)
    plain, rewritten = (version.memory for version in comparison.versions)
    if plain and rewritten and plain.timeline and rewritten.timeline:
        drawn += plots.save(plots.measured(plain, rewritten), folder, "measured")
    return drawn


def write_board(folder: pathlib.Path, comparison: Comparison, options: Options) -> None:
    """Writes both versions as runs of TensorBoard.

    Args:
        folder: Where to; made if it isn't there.
        comparison: A comparison after training and measuring.
        options: How it was rewritten.
    """
    from nested_fad_tf.integrations.tensorboard import Rewritten
    from nested_fad_tf.report import tensorboard

    step: Any = comparison.plain.step
    specs = tuple(map(tf.TensorSpec.from_tensor, comparison.batch()))
    # What was known before the rewrite isn't any more.
    traced = Rewritten(step.python_function, specs, {}, options)
    versions = dict(
        zip((tensorboard.ORIGINAL, tensorboard.REWRITTEN), comparison.versions, strict=True)
    )
    measured = {
        name: dataclasses.replace(v.memory, seconds=v.steady_seconds or v.memory.seconds)
        for name, v in versions.items()
        if v.memory
    }
    tensorboard.write(folder, traced.runs(measured))
    for name, version in versions.items():
        tensorboard.write_curve(folder / name, "loss", version.losses)


def _results(comparison: Comparison, settings: dict[str, Any], options: Options) -> dict[str, Any]:
    """Returns all results as plain values."""
    ratios = comparison.time_ratios()
    return {
        **settings,
        "options": options.to_dict(),
        "plain": comparison.plain.to_dict(),
        "rewritten": comparison.rewritten.to_dict(),
        "peak_ratio": _peak(comparison.rewritten) / _peak(comparison.plain),
        "time_ratio": statistics.median(ratios) if ratios else None,
        "time_ratios": ratios,
        "largest_loss_difference": max(comparison.loss_differences()),
        "report": comparison.report.to_dict(),
    }


def _comparison_table(comparison: Comparison) -> table.Table:
    """Returns the table of both versions side by side."""
    plain, rewritten = comparison.versions
    report = comparison.report
    rows = table.Table(box=box.SIMPLE_HEAD)
    rows.add_column("training step")
    for title in ("plain", "rewritten", ""):
        rows.add_column(title, justify="right")
    _add_bytes(rows, "peak memory, measured", _peak(plain), _peak(rewritten))
    _add_bytes(
        rows, "peak memory, predicted", report.predicted_peak_before, report.predicted_peak_after
    )
    _add_bytes(rows, "kept for backward", report.kept_bytes_before, report.kept_bytes_after)
    _add_times(rows, comparison)
    rows.add_row(
        "first step (tracing)", f"{plain.seconds[0]:.1f} s", f"{rewritten.seconds[0]:.1f} s"
    )
    rows.add_section()
    rows.add_row("loss, first step", f"{plain.losses[0]:.4f}", f"{rewritten.losses[0]:.4f}")
    rows.add_row("loss, last step", f"{plain.losses[-1]:.4f}", f"{rewritten.losses[-1]:.4f}")
    rows.add_row("test accuracy before", *(f"{v.accuracy_before:.1%}" for v in comparison.versions))
    rows.add_row("test accuracy after", *(f"{v.accuracy_after:.1%}" for v in comparison.versions))
    return rows


def _add_bytes(rows: table.Table, label: str, before: int, after: int) -> None:
    """Adds a row of two sizes and how they compare."""
    if before >= after > 0:
        text = f"{before / after:.2f}x less"
    else:
        text = f"{after / before:.2f}x more" if before else ""
    rows.add_row(label, _mib(before), _mib(after), text)


def _add_times(rows: table.Table, comparison: Comparison) -> None:
    """Adds the row of step times; their ratio is the median over pairs of steps."""
    plain, rewritten = (version.steady_seconds for version in comparison.versions)
    if plain is None or rewritten is None:
        rows.add_row("step time", "too few steps", "too few steps")
        return
    ratios = comparison.time_ratios()
    text = f"{statistics.median(ratios):.2f}x of plain"
    if len(ratios) >= 4:
        low, _, high = statistics.quantiles(ratios, n=4)
        # The middle half of the pairs: on a busy machine single steps say little.
        text += f" ({low:.2f}-{high:.2f})"
    rows.add_row("step time", f"{plain * 1000:.0f} ms", f"{rewritten * 1000:.0f} ms", text)


def _losses_line(comparison: Comparison) -> str:
    """Returns how far the loss curves are apart."""
    differences = comparison.loss_differences()
    largest = max(differences)
    if largest == 0:
        return f"the losses are bit-equal in all {len(differences)} steps"
    step = differences.index(largest) + 1
    return (
        f"the losses differ by {differences[0]:.1e} in the first step, "
        f"by {largest:.1e} at most (step {step} of {len(differences)})"
    )


def _kept_table(report: Any) -> table.Table:
    """Returns the table of the largest tensors kept for the backward pass."""
    kept = sorted(report.kept, key=lambda item: -item.bytes)
    shown, rest = kept[:_KEPT_ROWS], kept[_KEPT_ROWS:]
    title = f"largest of {len(kept)} tensors kept for the backward pass"
    rows = table.Table(box=box.SIMPLE_HEAD, title_justify="left", title=title)
    for heading in ("layer", "operation", "tensor"):
        rows.add_column(heading, no_wrap=True)
    rows.add_column("MiB", justify="right")
    rows.add_column("why")
    for item in shown:
        size = f"{item.bytes / _MIB:.1f}"
        texts = (_end(item.layer), item.op_type, _tensor(item), size, item.why)
        rows.add_row(*(markup.escape(text) for text in texts))
    if rest:
        size = f"{sum(item.bytes for item in rest) / _MIB:.1f}"
        rows.add_row(f"{len(rest)} smaller ones", "", "", size, "")
    return rows


def _tensor(item: Any) -> str:
    """Returns dtype and shape of a kept tensor, as in float32[128, 64]."""
    if item.shape is None:
        return f"{item.dtype}[?]"
    return f"{item.dtype}[{', '.join('?' if n is None else str(n) for n in item.shape)}]"


def _end(name: str) -> str:
    """Returns the end of a long name: the scopes at its beginning tell least."""
    return name if len(name) <= _NAME_WIDTH else f"...{name[3 - _NAME_WIDTH :]}"


def _peak(version: Version) -> int:
    """Returns the measured peak."""
    if version.memory is None:
        raise ValueError("the memory of this version was not measured")
    return version.memory.peak_bytes


def _mib(size: int) -> str:
    """Returns a size in MiB."""
    return f"{size / _MIB:.1f} MiB"
