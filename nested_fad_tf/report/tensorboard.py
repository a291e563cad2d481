"""Writes graphs and reports as runs of TensorBoard.

TensorFlow no longer brings TensorBoard along, so scalars and texts are written the way its plugins
read them, without its help.
"""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from nested_fad_tf.report import board_images, board_text, kept_layers
from nested_fad_tf.report.board_images import Timeline
from nested_fad_tf.report.summary import Kept, Report

ORIGINAL, REWRITTEN = "original", "rewritten"
# A graph is looked at for its structure, and TensorBoard loads the values as well.
_LARGE_CONSTANT = 1024
_MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Run:
    """What TensorBoard shows as one run.

    Attributes:
        name: What it is called.
        graph: A `GraphDef`.
        kept_bytes: What its functions keep for the backward pass; the scalar `kept_bytes`.
        report: The report on it; the text `report`.
        applied: Whether what the report speaks of was done, rather than planned.
        kept: What it keeps; shown by layer.
        order: Names of ops in order of execution, to put layers in.
        scalars: Further numbers by tag.
        timelines: Memory over a step by tag; those of all runs that are written together share an
            image.
    """

    name: str
    graph: Any
    kept_bytes: int
    report: Report
    applied: bool
    kept: Sequence[Kept] = ()
    order: Sequence[str] = ()
    scalars: Mapping[str, float] = dataclasses.field(default_factory=dict)
    timelines: Mapping[str, Timeline] = dataclasses.field(default_factory=dict)


def write(log_dir: pathlib.Path, runs: Sequence[Run]) -> None:
    """Writes runs, all of them or none. What is in them already stays.

    Args:
        log_dir: The folder that holds the runs; made if there is none.
        runs: What to write.
    """
    log_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished.", dir=log_dir) as folder:
        unfinished = pathlib.Path(folder)
        for run in runs:
            _write_run(unfinished / run.name, run, runs)
        for file in list(unfinished.glob("*/*")):
            target = log_dir / file.relative_to(unfinished)
            target.parent.mkdir(exist_ok=True)
            file.rename(target)


def _write_run(folder: pathlib.Path, run: Run, runs: Sequence[Run]) -> None:
    figures = {r.name: {"kept_bytes": r.kept_bytes, **r.scalars} for r in runs}
    text = board_text.report(run.report, applied=run.applied, kept=run.kept, figures=figures)
    writer = tf.summary.create_file_writer(str(folder))
    with writer.as_default(step=0):
        tf.summary.graph(_without_large_constants(run.graph))
        _write_value("report", tf.constant(text), "text", "DATA_CLASS_TENSOR")
        if any(r.kept for r in runs):
            _write_layers(run, runs)
        for tag, timeline in run.timelines.items():
            _write_timeline(tag, timeline, run.name)
    _write_levels(writer, figures[run.name])
    writer.close()


def _write_layers(run: Run, runs: Sequence[Run]) -> None:
    """Writes what is kept by layer, as a histogram over the layers and as a figure.

    The runs number their layers alike, so that their histograms can be compared.
    """
    names, sizes = kept_layers.by_layer({r.name: r.kept for r in runs}, run.order)
    buckets = [(i, i + 1, size / _MIB) for i, size in enumerate(sizes[run.name])]
    lines = [f"* {i} to {i + 1}: `{name}`" for i, name in enumerate(names)]
    description = "MiB kept for the backward pass, by layer:\n\n" + "\n".join(lines)
    value = tf.constant(buckets, tf.float64)
    _write_value("kept_by_layer", value, "histograms", "DATA_CLASS_TENSOR", description)
    if board_images.installed():
        _write_image("kept/by_layer", board_images.layers(sizes, names))


def write_levels(folder: pathlib.Path, values: Mapping[str, float]) -> None:
    """Adds numbers that don't change while training to a run, as level lines.

    Args:
        folder: The run's folder; made if there is none.
        values: Numbers by tag.
    """
    writer = tf.summary.create_file_writer(str(folder))
    _write_levels(writer, values)
    writer.close()


def _write_levels(writer: Any, values: Mapping[str, float]) -> None:
    # TensorBoard does not fit its axes to a single point, which is then out of sight.
    for step in (0, 1):
        with writer.as_default(step=step):
            for tag, value in values.items():
                _write_scalar(tag, value)


def write_scalars(folder: pathlib.Path, step: int, values: Mapping[str, float]) -> None:
    """Adds scalars to a run.

    Args:
        folder: The run's folder; made if there is none.
        step: Where on the horizontal axis.
        values: Numbers by tag.
    """
    writer = tf.summary.create_file_writer(str(folder))
    with writer.as_default(step=step):
        for tag, value in values.items():
            _write_scalar(tag, value)
    writer.close()


def write_curve(folder: pathlib.Path, tag: str, values: Sequence[float]) -> None:
    """Adds a number that changes with each step to a run.

    Args:
        folder: The run's folder; made if there is none.
        tag: Its tag.
        values: The number after each step, from step 0 on.
    """
    writer = tf.summary.create_file_writer(str(folder))
    for step, value in enumerate(values):
        with writer.as_default(step=step):
            _write_scalar(tag, value)
    writer.close()


def write_timeline(log_dir: pathlib.Path, run: str, tag: str, timeline: Timeline) -> None:
    """Adds a figure of memory over a step to a run, if it can be drawn.

    Args:
        log_dir: The folder that holds the runs.
        run: The run's name.
        tag: Its tag.
        timeline: What to draw.
    """
    writer = tf.summary.create_file_writer(str(log_dir / run))
    with writer.as_default(step=0):
        _write_timeline(tag, timeline, run)
    writer.close()


def _write_timeline(tag: str, timeline: Timeline, run: str) -> None:
    if board_images.installed():
        _write_image(f"memory/{tag}", board_images.timeline(timeline, run))


def _write_scalar(tag: str, value: float) -> None:
    _write_value(tag, tf.constant(value, tf.float32), "scalars", "DATA_CLASS_SCALAR")


def _write_image(tag: str, png: bytes) -> None:
    width, height = (str(int.from_bytes(png[at : at + 4], "big")) for at in (16, 20))
    value = tf.constant([width.encode(), height.encode(), png])
    _write_value(tag, value, "images", "DATA_CLASS_BLOB_SEQUENCE")


def _write_value(
    tag: str, value: tf.Tensor, plugin: str, data_class: str, description: str = ""
) -> None:
    metadata = tf.compat.v1.SummaryMetadata(data_class=data_class, summary_description=description)
    metadata.plugin_data.plugin_name = plugin
    tf.summary.write(tag, value, metadata=metadata)


def _without_large_constants(graph: Any) -> Any:
    """A copy of the graph in which large constants are dtype and shape alone."""
    copy = type(graph)()
    copy.CopyFrom(graph)
    for node in copy.node:
        value = node.attr["value"].tensor if node.op == "Const" else None
        if value is not None and value.ByteSize() > _LARGE_CONSTANT:
            value.CopyFrom(type(value)(dtype=value.dtype, tensor_shape=value.tensor_shape))
    return copy
