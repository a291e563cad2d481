"""What budgets cost: whether the peak that was promised is kept, and how long it takes."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Sequence

from nested_fad_tf.bench import command, variants, versions
from nested_fad_tf.bench.agreement import (
    Gradients,
    relative_differences,
    worst_determined,
    worst_relative,
)
from nested_fad_tf.bench.runner import alternating
from nested_fad_tf.report.memory import measure

_DTYPE = "float32"
_ROUNDS = 5


@dataclasses.dataclass(frozen=True)
class Point:
    """A model within a budget.

    Attributes:
        model: The model's name.
        budget: A part of the predicted peak of plain TensorFlow; `None` without a budget.
        limit: The same in bytes.
        predicted: The predicted peak in bytes; above the limit if nothing was found that is within.
        peak: The measured one.
        plain_peak: That of plain TensorFlow.
        ratio: Time as a multiple of plain TensorFlow's, the median of rounds.
        ratio_low: The least of these.
        ratio_high: The largest.
        gradients: The largest relative difference of any gradient that is more than rounding.
        loss: The relative difference of the loss.
        plan_seconds: How long planning and rewriting took.
        note: What was done to be within the budget, or what stands in the way.
    """

    model: str
    budget: float | None
    limit: int | None
    predicted: int
    peak: int
    plain_peak: int
    ratio: float
    ratio_low: float
    ratio_high: float
    gradients: float
    loss: float
    plan_seconds: float
    note: str


def points(model: str, budgets: Sequence[float]) -> Iterator[Point]:
    """Measures loss and gradients of a model, without a budget and within some.

    Args:
        model: A name of `nested_fad_tf.bench.models`.
        budgets: Parts of the predicted peak of plain TensorFlow.

    Yields:
        A point without a budget, and one for each.
    """
    plain = Gradients(model, versions.PLAIN, variants.DEFAULT, _DTYPE)
    expected = plain.run()
    sensitivities = plain.sensitivities(expected)
    plain_peak = measure(plain.call, runs=1).peak_bytes
    for budget in (None, *budgets):
        version = "auto" if budget is None else f"auto:budget={budget}"
        other = Gradients(model, version, variants.DEFAULT, _DTYPE, plain.paths)
        found = other.run()
        differences = relative_differences(expected.gradients, found.gradients)
        seconds = alternating({"plain": plain.call, "other": other.call}, _ROUNDS)
        ratios = [b / a for a, b in zip(seconds["plain"], seconds["other"], strict=True)]
        report = other.function.reports[-1]
        yield Point(
            model=model,
            budget=budget,
            limit=versions.options(version).budget_bytes(report.predicted_peak_before),
            predicted=report.predicted_peak_after,
            peak=measure(other.call, runs=3).peak_bytes,
            plain_peak=plain_peak,
            ratio=statistics.median(ratios),
            ratio_low=min(ratios),
            ratio_high=max(ratios),
            gradients=worst_determined(differences, sensitivities, _DTYPE),
            loss=worst_relative([expected.loss], [found.loss]),
            plan_seconds=report.seconds,
            note=report.note,
        )


def table(found: Sequence[Point]) -> str:
    """The points in Markdown.

    Args:
        found: The points.

    Returns:
        A table.
    """
    return command.markdown(found, _COLUMNS)


def _how(note: str) -> str:
    """What the note says, without the budget, and without naming tensors."""
    return note.partition(" MiB is ")[2].partition(", at a time when ")[0]


_COLUMNS: list[command.Column] = [
    ("model", lambda row: row.model),
    ("budget", lambda row: "none" if row.budget is None else f"{row.budget:g}"),
    ("MiB", lambda row: command.mib(row.limit)),
    ("predicted", lambda row: command.mib(row.predicted)),
    ("measured", lambda row: command.mib(row.peak)),
    ("plain", lambda row: command.mib(row.plain_peak)),
    ("gain", lambda row: f"{row.plain_peak / row.peak:.1f}x"),
    ("time", lambda row: f"{row.ratio:.2f}x ({row.ratio_low:.2f}-{row.ratio_high:.2f})"),
    ("gradients", lambda row: f"{row.gradients:.0e}"),
    ("planned in", lambda row: f"{row.plan_seconds:.1f} s"),
    ("how", lambda row: _how(row.note)),
]
