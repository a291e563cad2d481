"""A function before and after its rewrite, as two runs of TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.report.board_images import Points, Timeline
from nested_fad_tf.report.memory import Measurement
from nested_fad_tf.report.shown_graph import shown
from nested_fad_tf.report.summary import Report
from nested_fad_tf.report.tensorboard import ORIGINAL, REWRITTEN, Run
from nested_fad_tf.report.timeline import Timeline as SimulatedTimeline

PREDICTED, MEASURED = "predicted", "measured"


def runs(
    report: Report,
    view: GraphView,
    graph: Any,
    measured: Mapping[str, Measurement] | None = None,
) -> list[Run]:
    """Makes both runs.

    Args:
        report: The report on the function.
        view: Its graph before the rewrite.
        graph: The `FuncGraph` as it is now.
        measured: What calls were measured to need, by run.

    Returns:
        The runs `original` and `rewritten`.
    """
    measured = measured or {}
    shown_timelines = timelines(report.timeline_before, report.timeline_after, measured)
    after = GraphView.from_func_graph(graph, view.nominal)
    made = []
    for name, seen, kept in (
        (ORIGINAL, view, report.kept_before),
        (REWRITTEN, after, report.kept),
    ):
        is_original = name == ORIGINAL
        peak = report.predicted_peak_before if is_original else report.predicted_peak_after
        simulated = report.timeline_before is not None
        scalars: dict[str, float] = {"predicted_peak": peak} if simulated else {}
        if name in measured:
            scalars |= measured_scalars(measured[name])
        scalars["ops"] = report.nodes_before if is_original else report.nodes_after
        made.append(
            Run(
                name,
                shown(seen, kept, report.gradient_seeds),
                report.kept_bytes_before if is_original else report.kept_bytes_after,
                report,
                applied=True,
                kept=kept,
                order=[node.name for node in view.nodes],
                scalars=scalars,
                timelines=shown_timelines,
            )
        )
    return made


def measured_scalars(measurement: Measurement) -> dict[str, float]:
    """The scalars of a measurement.

    Args:
        measurement: What a step needed.

    Returns:
        `step_seconds`, and `measured_peak` in bytes unless all buffers were too small to be told.
    """
    scalars: dict[str, float] = {"step_seconds": measurement.seconds}
    if measurement.peak_bytes:
        scalars["measured_peak"] = measurement.peak_bytes
    return scalars


def timelines(
    before: SimulatedTimeline | None,
    after: SimulatedTimeline | None,
    measured: Mapping[str, Measurement],
) -> Mapping[str, Timeline]:
    """What is to be drawn of a step, predicted and measured.

    Args:
        before: The original's simulation, if there is one.
        after: That of the rewritten step.
        measured: What calls were measured to need, by run.

    Returns:
        The timelines that there are.
    """
    found = {}
    if before is not None and after is not None:
        found[PREDICTED] = predicted_timeline(before, after)
    points = {name: m.timeline for name, m in measured.items() if m.peak_bytes}
    if points:
        peaks = {name: measured[name].peak_bytes for name in points}
        backward = {name: measured[name].backward_from for name in points}
        found[MEASURED] = measured_timeline(points, peaks, backward)
    return found


def predicted_timeline(before: SimulatedTimeline, after: SimulatedTimeline) -> Timeline:
    """What is to be drawn of simulated steps; both passes are as long in both.

    Args:
        before: The original's.
        after: The rewritten one's.

    Returns:
        The timeline.
    """
    simulated, backward = {ORIGINAL: before, REWRITTEN: after}, before.backward_from
    return Timeline(
        "memory over one step, predicted",
        "time, by the bytes that ops read and write",
        {name: timeline.aligned(backward) for name, timeline in simulated.items()},
        {name: timeline.peak_bytes for name, timeline in simulated.items()},
        dict.fromkeys(simulated, backward),
    )


def measured_timeline(
    points: Mapping[str, Points],
    peaks: Mapping[str, int],
    backward: Mapping[str, float | None],
) -> Timeline:
    """What is to be drawn of measured steps.

    Args:
        points: By run, seconds since the step began and bytes live from then on.
        peaks: By run, the most that was live at once.
        backward: By run, when the backward pass began; `None` where that isn't known.

    Returns:
        The timeline.
    """
    known = {name: begins for name, begins in backward.items() if begins is not None}
    return Timeline("memory over one step, measured", "seconds", points, peaks, known)
