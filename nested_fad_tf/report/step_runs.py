"""A function before and after its rewrite, as two runs of TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.plan.plan import Keep, Plan
from nested_fad_tf.report.board_images import Points, Timeline
from nested_fad_tf.report.memory import Measurement
from nested_fad_tf.report.shown_graph import shown
from nested_fad_tf.report.summary import Kept, Report
from nested_fad_tf.report.tensorboard import ORIGINAL, REWRITTEN, Run

MEASURED = "measured"


def runs(
    report: Report,
    view: GraphView,
    plan: Plan | None,
    graph: Any,
    measured: Mapping[str, Measurement] | None = None,
) -> list[Run]:
    """Makes both runs.

    Args:
        report: The report on the function.
        view: Its graph before the rewrite.
        plan: What was planned; `None` if it is differentiated from outside.
        graph: The `FuncGraph` as it is now.
        measured: What calls were measured to need, by run.

    Returns:
        The runs `original` and `rewritten`.
    """
    measured = measured or {}
    before = [_kept(keep) for keep in plan.kept_before] if plan is not None else []
    timelines = _timelines(plan, measured)
    after = GraphView.from_func_graph(graph, view.nominal)
    made = []
    for name, seen, kept in ((ORIGINAL, view, before), (REWRITTEN, after, report.kept)):
        is_original = name == ORIGINAL
        peak = report.predicted_peak_before if is_original else report.predicted_peak_after
        scalars: dict[str, float] = {"predicted_peak": peak} if plan is not None else {}
        if name in measured:
            if measured[name].peak_bytes:  # the allocator doesn't tell of small buffers
                scalars["measured_peak"] = measured[name].peak_bytes
            scalars["step_seconds"] = measured[name].seconds
        scalars["ops"] = report.nodes_before if is_original else report.nodes_after
        made.append(
            Run(
                name,
                shown(seen, kept, report.gradient_seeds),
                report.kept_bytes_before if is_original else report.kept_bytes_after,
                report,
                applied=True,
                kept=kept if plan is not None else (),
                order=[node.name for node in view.nodes],
                scalars=scalars,
                timelines=timelines,
            )
        )
    return made


def _kept(keep: Keep) -> Kept:
    value = keep.value
    return Kept(
        name=value.name,
        layer=value.node.name.rpartition("/")[0],
        op_type=value.node.op_type,
        shape=value.shape,
        dtype=value.dtype.name,
        bytes=keep.nbytes,
        why=keep.why,
    )


def _timelines(plan: Plan | None, measured: Mapping[str, Measurement]) -> Mapping[str, Timeline]:
    found = {}
    if plan is not None:
        predicted = {
            ORIGINAL: list(enumerate(plan.before.timeline)),
            REWRITTEN: list(enumerate(plan.after.timeline)),
        }
        peaks = {ORIGINAL: plan.before.peak_bytes, REWRITTEN: plan.after.peak_bytes}
        found["predicted"] = Timeline("memory over one step, predicted", "op", predicted, peaks)
    points = {name: m.timeline for name, m in measured.items() if m.peak_bytes}
    if points:
        peaks = {name: measured[name].peak_bytes for name in points}
        found[MEASURED] = measured_timeline(points, peaks)
    return found


def measured_timeline(points: Mapping[str, Points], peaks: Mapping[str, int]) -> Timeline:
    """What is to be drawn of measured steps.

    Args:
        points: By run, seconds since the step began and bytes live from then on.
        peaks: By run, the most that was live at once.

    Returns:
        The timeline.
    """
    return Timeline("memory over one step, measured", "seconds", points, peaks)
