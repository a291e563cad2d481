"""A SavedModel and its rewrite as two runs of TensorBoard."""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nested_fad_tf.integrations.saved_model import rewriting
from nested_fad_tf.integrations.saved_model.entry_points import Found
from nested_fad_tf.integrations.saved_model.graphs import graph_of_functions
from nested_fad_tf.integrations.saved_model.rewriting import Progress
from nested_fad_tf.options import Options
from nested_fad_tf.report import step_runs
from nested_fad_tf.report.memory import Measurement
from nested_fad_tf.report.summary import Kept, Report
from nested_fad_tf.report.tensorboard import ORIGINAL, REWRITTEN, Run
from nested_fad_tf.report.timeline import Timeline

_Kept = Mapping[str, Sequence[Kept]]
Measure = Callable[[pathlib.Path], Measurement]


def rewritten_runs(
    source: pathlib.Path,
    options: Options,
    signatures: Sequence[str] | None = None,
    progress: Progress | None = None,
    measure: Measure | None = None,
) -> list[Run]:
    """Rewrites a SavedModel in a folder that is removed again.

    Args:
        source: Its folder; it is only read.
        options: What may be done.
        signatures: Rewrite and show what these signatures call only; everything by default.
        progress: As for `rewrite`.
        measure: Measures a SavedModel; by default none is measured.

    Returns:
        The runs `original` and `rewritten`.

    Raises:
        SavedModelError: If `source` can't be read, or a signature is unknown.
        RewriteError: If a rewrite fails and `options.on_error` is "raise".
    """
    measured = _measured(ORIGINAL, source, measure)
    with tempfile.TemporaryDirectory(prefix="nested_fad_tf_") as folder:
        target = pathlib.Path(folder) / "rewritten"
        made = rewriting.rewrite_each(source, target, options, signatures, progress=progress)
        reports = made.reports
        before: _Kept = {name: report.kept_before for name, report in reports.items()}
        after: _Kept = {name: report.kept for name, report in reports.items()}
        graphs = [
            graph_of_functions(source, reports, before, signatures),
            graph_of_functions(target, reports, after, signatures),
        ]
        measured |= _measured(REWRITTEN, target, measure)
    report = _summed(source, made, options)
    step = report.largest_step()
    timelines = (step.timeline_before, step.timeline_after) if step is not None else (None, None)
    sizes = report.kept_bytes_before, report.kept_bytes_after
    kept, both = (before, after), (report, report)
    return _runs(graphs, kept, both, sizes, timelines, measured, applied=True)


def inspected_runs(
    source: pathlib.Path,
    rewritten: pathlib.Path,
    options: Options,
    signatures: Sequence[str] | None = None,
    progress: Progress | None = None,
    measure: Measure | None = None,
) -> list[Run]:
    """Looks at two SavedModels as they are.

    Args:
        source: The folder of the original.
        rewritten: That of what `rewrite` made of it.
        options: What could be done to each, for the reports.
        signatures: Show what these signatures call only; everything by default.
        progress: As for `inspect`.
        measure: Measures a SavedModel; by default none is measured.

    Returns:
        The runs `original` and `rewritten`.

    Raises:
        SavedModelError: If one of them can't be read, or lacks a signature.
    """
    measured = _measured(ORIGINAL, source, measure) | _measured(REWRITTEN, rewritten, measure)
    graphs, kept, reports, timelines = [], [], [], []
    for folder in (source, rewritten):
        found = rewriting.inspect_each(folder, options, signatures, progress=progress)
        kept.append({name: report.kept_before for name, report in found.reports.items()})
        graphs.append(graph_of_functions(folder, found.reports, kept[-1], signatures))
        reports.append(_summed(folder, found, options))
        step = reports[-1].largest_step()
        timelines.append(None if step is None else step.timeline_before)
    sizes = [report.kept_bytes_before for report in reports]
    return _runs(graphs, kept, reports, sizes, timelines, measured, applied=False)


def _measured(name: str, folder: pathlib.Path, measure: Measure | None) -> dict[str, Measurement]:
    return {} if measure is None else {name: measure(folder)}


def _summed(folder: pathlib.Path, found: Found, options: Options) -> Report:
    seconds = sum(report.seconds for report in found.reports.values())
    return found.combined(str(folder), options.strategy, seconds)


def _runs(
    graphs: Sequence[Any],
    kept: Sequence[_Kept],
    reports: Sequence[Report],
    sizes: Sequence[int],
    timelines: Sequence[Timeline | None],
    measured: Mapping[str, Measurement],
    *,
    applied: bool,
) -> list[Run]:
    """Makes the runs of what was found of both models.

    Args:
        graphs: Their graphs.
        kept: What their functions keep, each counted once.
        reports: The reports to show.
        sizes: What they keep when what keeps most is called.
        timelines: Memory over the step that needs most, where there is one.
        measured: What a signature was measured to need, by run.
        applied: Whether the rewrite that the reports speak of was done.

    Returns:
        The runs.
    """
    before, after = timelines
    drawn = step_runs.timelines(before, after, measured)
    order = [node.name for node in graphs[0].node]
    runs = []
    for name, graph, own, report, size, timeline in zip(
        (ORIGINAL, REWRITTEN), graphs, kept, reports, sizes, timelines, strict=True
    ):
        scalars = {} if timeline is None else {"predicted_peak": float(timeline.peak_bytes)}
        if name in measured:
            scalars |= step_runs.measured_scalars(measured[name])
        runs.append(
            Run(
                name,
                graph,
                size,
                report,
                applied=applied,
                kept=_in_scopes(own),
                order=order,
                scalars=scalars,
                timelines=drawn,
            )
        )
    return runs


def _in_scopes(kept: _Kept) -> list[Kept]:
    """What is kept, by the names that it has in a graph of all functions."""
    return [
        dataclasses.replace(
            tensor,
            name=f"{function}/{tensor.name}",
            layer=f"{function}/{tensor.layer}".rstrip("/"),
        )
        for function, tensors in kept.items()
        for tensor in tensors
    ]
