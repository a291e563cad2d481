"""The largest batch that a process of limited memory can train with, plain and rewritten.

Each batch size is tried in a process of its own (bench/limited.py), which really runs out.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from nested_fad_tf.bench import catalog, command, peers, request, variants, versions
from nested_fad_tf.report import units

# How far, relatively, the smallest batch that failed may be above the largest that went.
PRECISION = 0.03
# What ends a process that runs out where nothing can raise an error: in XLA, LLVM, Eigen, Linux.
_SIGNALS = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGKILL)


@dataclasses.dataclass(frozen=True)
class Trial:
    """What became of one batch size.

    Attributes:
        batch: Examples in a batch.
        needed: What the process needed at most, in bytes; None if it ran out.
        out: What could not be allocated; empty if nothing.
    """

    batch: int
    needed: int | None
    out: str = ""


@dataclasses.dataclass(frozen=True)
class BatchRow:
    """The largest batches, plain and of another version.

    Attributes:
        model: The model's name.
        strategy: The version.
        fuse: How its groups run.
        jit_compile: Whether XLA compiles the step as a whole, plain and rewritten.
        limit: What a process may allocate, in bytes.
        plain_batch: Plain TensorFlow's largest batch; 0 if it can't even train with one example.
        batch: The other version's.
        out: What failed in its next larger batch that was tried.
    """

    model: str
    strategy: str
    fuse: str
    jit_compile: bool
    limit: int
    plain_batch: int
    batch: int
    out: str


def largest(attempt: Callable[[int], Trial], first: int, limit: int) -> tuple[int, Trial]:
    """Searches the largest batch that goes, in few attempts.

    Args:
        attempt: Tries a batch size.
        first: Where to begin.
        limit: How much may be needed, in bytes.

    Returns:
        The largest batch that went, 0 if none did, and the smallest that failed: it is the next
        one, or larger by no more than `PRECISION`.
    """
    went: list[Trial] = []
    failed: Trial | None = None
    batch = first
    while True:
        trial = attempt(batch)
        if trial.needed is None:
            failed = trial
        else:
            went = sorted([*went, trial], key=lambda trial: trial.batch)
        best = went[-1].batch if went else 0
        if failed and failed.batch - best <= max(1, PRECISION * best):
            return best, failed
        batch = _next(went, failed, limit)


def _next(went: Sequence[Trial], failed: Trial | None, limit: int) -> int:
    """A batch size that tells more: above all that went, below all that failed."""
    if failed is None:
        least = math.ceil(went[-1].batch * (1 + PRECISION))
        return max(went[-1].batch + 1, least, _extrapolated(went, limit))
    best = went[-1].batch if went else 0
    # Where memory gave out is near where it was expected to; half-way down may be far off.
    near = int(failed.batch * 0.9) if went else 0
    return min(failed.batch - 1, max(best + 1, (best + failed.batch) // 2, near))


def _extrapolated(went: Sequence[Trial], limit: int) -> int:
    """Where a line through the last two would reach the limit; else twice as much."""
    doubled = 2 * went[-1].batch
    if len(went) < 2:
        return doubled
    (x, low), (y, high) = ((trial.batch, trial.needed or 0) for trial in went[-2:])
    if high <= low:
        return doubled
    return int(y + (limit - high) * (y - x) / (high - low))


def run_largest_batch(
    models: Sequence[str],
    strategies: Sequence[str],
    limit: int,
    how: variants.How = variants.DEFAULT,
    json_path: pathlib.Path | None = None,
) -> list[BatchRow]:
    """Finds the largest batches, prints a table and writes the rows.

    Args:
        models: Names of `nested_fad_tf.bench.models`; "all" stands for every one.
        strategies: Versions as `nested_fad_tf.bench.versions` reads them.
        limit: What a process may allocate, in bytes.
        how: What else the versions are made with.
        json_path: Where to write the rows; None to write none.

    Returns:
        The rows.

    Raises:
        RuntimeError: If the system can't limit a process, or one fails for another reason.
        ValueError: If a model is not known.
    """
    if sys.platform != "linux":
        raise RuntimeError("a process's memory can be limited on Linux only")
    console = Console(stderr=True)
    rows: list[BatchRow] = []
    refused: list[peers.Refusal] = []
    for model in command.chosen_models(models):
        plain, _ = _largest_of(model, versions.PLAIN, limit, how, console)
        for version in strategies:
            try:
                batch, failed = _largest_of(model, version, limit, how, console)
            except peers.RefusedError as error:
                refused.append(error.row)
                continue
            made = (model, version, how.fuse, how.jit_compile)
            rows.append(BatchRow(*made, limit, plain, batch, failed.out))
    print(table(rows))
    for row in refused:
        print(f"{row.model}, {row.strategy}: {row.reason}")
    if json_path is not None:
        results = {"batch": list(map(dataclasses.asdict, rows))}
        if refused:
            results["refused"] = list(map(dataclasses.asdict, refused))
        command.write(json_path, results)
    return rows


def table(rows: Sequence[BatchRow]) -> str:
    """The largest batches, in Markdown.

    Args:
        rows: One for each model and version.

    Returns:
        The table.
    """
    return command.markdown(rows, _COLUMNS)


def _largest_of(
    model: str, version: str, limit: int, how: variants.How, console: Console
) -> tuple[int, Trial]:
    def shown(batch: int) -> Trial:
        with console.status(f"{model}, {version}: batch {batch}"):
            trial = _attempt(model, version, limit, how, batch)
        result = trial.out or f"goes with {units.readable(trial.needed or 0)}"
        console.print(
            f"{model}, {version}: batch {batch}: {result}", highlight=False, soft_wrap=True
        )
        return trial

    _, sizes = catalog.sizes(model)
    return largest(shown, sizes["batch"], limit)


def _attempt(model: str, version: str, limit: int, how: variants.How, batch: int) -> Trial:
    """Trains with a batch size in a process of its own."""
    asked = {
        "model": catalog.with_batch(model, batch),
        "strategy": version,
        "limit": limit,
        **dataclasses.asdict(how),
    }
    try:
        answer = request.ask("nested_fad_tf.bench.limited", asked)
    except request.FailedError as error:
        if -error.status not in _SIGNALS:
            raise
        return Trial(batch, None, f"ended by {signal.Signals(-error.status).name}")
    if "refused" in answer:
        raise peers.RefusedError(peers.Refusal(**answer["refused"]))
    return Trial(batch, answer.get("needed"), answer.get("out", ""))


def _gain(row: Any) -> str:
    return f"{row.batch / row.plain_batch:.2f}x" if row.plain_batch else "-"


_COLUMNS: list[command.Column] = [
    ("model", lambda row: row.model),
    ("strategy", lambda row: row.strategy),
    ("limit", lambda row: units.readable(row.limit)),
    ("largest batch", lambda row: f"{row.plain_batch} -> {row.batch}"),
    ("gain", _gain),
    ("what more ran out of", lambda row: row.out[:60]),
]
