"""Bytes against seconds: what each value of `Options.tradeoff` gives for a model."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from nested_fad_tf.bench import command, models, runner, variants
from nested_fad_tf.report.front import front

TRADEOFFS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


@dataclasses.dataclass(frozen=True)
class SweepRow:
    """What one trade-off gives.

    Attributes:
        model: The model's name.
        strategy: The version's label.
        tradeoff: `Options.tradeoff`.
        predicted_before: The plain step's peak as the planner predicts it.
        predicted: The rewritten step's.
        again_seconds: How long what is computed a second time is predicted to take.
        peak: Measured peak of the rewritten step; None if it was not measured.
        plain_peak: The same of plain TensorFlow.
        ratio: Time of a step to plain TensorFlow's; None if it was not measured.
        best: Whether no other trade-off is at least as good in memory and time, and better in one.
    """

    model: str
    strategy: str
    tradeoff: float
    predicted_before: int
    predicted: int
    again_seconds: float
    peak: int | None = None
    plain_peak: int | None = None
    ratio: float | None = None
    best: bool = False

    @property
    def point(self) -> tuple[float, float]:
        """Time and memory: as measured, or as predicted where they weren't."""
        time = self.again_seconds if self.ratio is None else self.ratio
        return time, self.predicted if self.peak is None else self.peak


def run_sweep(
    models: Sequence[str],
    how: variants.How = variants.DEFAULT,
    what: Sequence[str] = (),
    json_path: pathlib.Path | None = None,
    tradeoffs: Sequence[float] = TRADEOFFS,
) -> dict[str, list[dict[str, Any]]]:
    """Plans, and measures, models with several trade-offs, prints a table, and writes the rows.

    Args:
        models: Names of `nested_fad_tf.bench.models`; "all" stands for every one.
        how: What else the versions are made with.
        what: What to measure: "memory", "time", both or neither.
        json_path: Where to write the rows; None to write none.
        tradeoffs: The values of `Options.tradeoff`.

    Returns:
        The rows of "sweep" as dictionaries, and of "memory" and "time" if they were measured.

    Raises:
        ValueError: If a model is not known.
    """
    labels = list(map(_version, tradeoffs))
    found: dict[str, list[Any]] = {"sweep": [], **{kind: [] for kind in what}}
    console = Console(stderr=True)
    for model in command.chosen_models(models):
        with console.status(f"tradeoffs: {model}"):
            planned = predicted(model, tradeoffs, how)
            if "memory" in what:
                measured = [runner.memory_row(model, label, how) for label in labels]
                planned = [
                    dataclasses.replace(row, peak=m.peak, plain_peak=m.plain_peak)
                    for row, m in zip(planned, measured, strict=True)
                ]
                found["memory"] += measured
            if "time" in what:
                timed, _ = runner.time_rows([model], labels, how)
                ratios = {row.strategy: row.ratio for row in timed}
                planned = [dataclasses.replace(r, ratio=ratios[r.strategy]) for r in planned]
                found["time"] += timed
        found["sweep"] += with_front(planned)
    print(command.markdown(found["sweep"], _columns(what)))
    print(f"\n*: none of the others is better in {_axes(what)}")
    for row in found.get("time", []):
        if row.strategy == runner.CONTROL:
            print(
                f"{row.model}: times of plain TensorFlow against itself are"
                f" {row.ratio_low:.2f}-{row.ratio_high:.2f}x"
            )
    results = {kind: [dataclasses.asdict(row) for row in rows] for kind, rows in found.items()}
    if json_path is not None:
        command.write(json_path, results)
    return results


def predicted(
    model: str, tradeoffs: Sequence[float] = TRADEOFFS, how: variants.How = variants.DEFAULT
) -> list[SweepRow]:
    """Plans a model's step with each trade-off.

    Args:
        model: A name of `nested_fad_tf.bench.models`.
        tradeoffs: The trade-offs.
        how: What else the versions are made with.

    Returns:
        A row for each, nothing measured.
    """
    problem = models.build(model)
    rows = []
    for tradeoff in tradeoffs:
        label = _version(tradeoff)
        step = variants.wrap(problem.step, label, how)
        step.get_concrete_function(*problem.inputs)
        numbers = variants.report_numbers(step)
        row = SweepRow(
            model=model,
            strategy=label,
            tradeoff=tradeoff,
            predicted_before=numbers["predicted_peak_before"],
            predicted=numbers["predicted_peak_after"],
            again_seconds=numbers["again_seconds"],
        )
        rows.append(row)
    return rows


def _version(tradeoff: float) -> str:
    return f"auto:tradeoff={tradeoff:g}"


def with_front(rows: Sequence[SweepRow]) -> list[SweepRow]:
    """Marks the Pareto front.

    Args:
        rows: The rows of one model.

    Returns:
        The same; those are marked that no other row beats.
    """
    best = set(front(row.point for row in rows))
    return [dataclasses.replace(row, best=row.point in best) for row in rows]


def _axes(what: Sequence[str]) -> str:
    memory = "measured memory" if "memory" in what else "predicted memory"
    return f"{memory} and {'measured' if 'time' in what else 'predicted'} time"


def _columns(what: Sequence[str]) -> list[command.Column]:
    columns: list[command.Column] = [
        ("model", lambda row: row.model),
        ("tradeoff", lambda row: f"{row.tradeoff:g}"),
        ("predicted MiB", lambda row: command.pair(row.predicted_before, row.predicted)),
        ("computed again s", lambda row: f"{row.again_seconds:.3f}"),
    ]
    if "memory" in what:
        columns.append(("peak MiB", lambda row: command.pair(row.plain_peak, row.peak)))
    if "time" in what:
        columns.append(("to plain", lambda row: f"{row.ratio:.2f}x"))
    return [*columns, ("front", lambda row: "*" if row.best else "")]
