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

from nested_fad_tf.report import tables
from nested_fad_tf.report.summary import Report

# A graph is looked at for its structure, and TensorBoard loads the values as well.
_LARGE_CONSTANT = 1024


@dataclasses.dataclass(frozen=True)
class Run:
    """What TensorBoard shows as one run.

    Attributes:
        name: What it is called.
        graph: A `GraphDef`.
        kept_bytes: What its functions keep for the backward pass; the scalar `kept_bytes`.
        report: The report on it; the text `report`.
        applied: Whether what the report speaks of was done, rather than planned.
    """

    name: str
    graph: Any
    kept_bytes: int
    report: Report
    applied: bool


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
            _write_run(unfinished / run.name, run)
        for file in list(unfinished.glob("*/*")):
            target = log_dir / file.relative_to(unfinished)
            target.parent.mkdir(exist_ok=True)
            file.rename(target)


def _write_run(folder: pathlib.Path, run: Run) -> None:
    writer = tf.summary.create_file_writer(str(folder))
    with writer.as_default(step=0):
        tf.summary.graph(_without_large_constants(run.graph))
        _write_scalar("kept_bytes", run.kept_bytes)
        _write_value("report", tf.constant(_text(run)), "text", "DATA_CLASS_TENSOR")
    writer.close()


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


def _write_scalar(tag: str, value: float) -> None:
    _write_value(tag, tf.constant(value, tf.float32), "scalars", "DATA_CLASS_SCALAR")


def _write_value(tag: str, value: tf.Tensor, plugin: str, data_class: str) -> None:
    metadata = tf.compat.v1.SummaryMetadata(data_class=data_class)
    metadata.plugin_data.plugin_name = plugin
    tf.summary.write(tag, value, metadata=metadata)


def _text(run: Run) -> str:
    functions = tables.functions(run.report, applied=run.applied)
    kept = tables.kept(run.report, applied=run.applied)
    return "\n\n".join(tables.markdown(table) for table in (functions, kept) if table.rows)


def _without_large_constants(graph: Any) -> Any:
    """A copy of the graph in which large constants are dtype and shape alone."""
    copy = type(graph)()
    copy.CopyFrom(graph)
    for node in copy.node:
        value = node.attr["value"].tensor if node.op == "Const" else None
        if value is not None and value.ByteSize() > _LARGE_CONSTANT:
            value.CopyFrom(type(value)(dtype=value.dtype, tensor_shape=value.tensor_shape))
    return copy
