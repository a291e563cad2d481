"""Rows of the benchmark tables: memory and time of a step, and whether rewriting changed it."""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from nested_fad_tf.bench import catalog, models, peers, request, variants, versions

CONTROL = "plain again"
_LEAST_ROUNDS = 9


@dataclasses.dataclass(frozen=True)
class MemoryRow:
    """Memory of one step, plain and another version, in bytes above what lived before the step.

    Attributes:
        model: The model's name.
        strategy: The other version.
        fuse: How its groups run.
        jit_compile: Whether XLA compiles the step as a whole, plain and rewritten.
        graph_ops: Ops in the plain graph.
        plain_peak: Peak of plain TensorFlow, bytes requested.
        peak: Peak of the other version.
        plain_resident: How far the plain step raised the resident set; None where unknown.
        resident: The same for the other version.
        predicted_before: The plain step's peak as the planner predicted it.
        predicted_after: The rewritten step's.
        kept_before: Bytes that plain TensorFlow keeps for the backward pass.
        kept_after: Bytes that the rewritten step keeps.
        changed: Whether anything was rewritten.
        method: How the peaks were measured.
    """

    model: str
    strategy: str
    fuse: str
    jit_compile: bool
    graph_ops: int
    plain_peak: int
    peak: int
    plain_resident: int | None
    resident: int | None
    predicted_before: int | None
    predicted_after: int | None
    kept_before: int | None
    kept_after: int | None
    changed: bool
    method: str


@dataclasses.dataclass(frozen=True)
class TimeRow:
    """Time of one version of a step against plain TensorFlow, alternating in one process.

    Attributes:
        model: The model's name.
        strategy: The version, or "plain again", the null control, whose spread says which
            differences mean something.
        fuse: How its groups run.
        jit_compile: Whether XLA compiles the step as a whole, plain and rewritten.
        seconds: Median time of a steady step.
        ratio: Median over the rounds of this version's time to plain's in the same round.
        ratio_low: The smallest such ratio.
        ratio_high: The largest.
        rounds: How many rounds were run.
        trace_seconds: Time to trace, rewriting left out.
        rewrite_seconds: Time to rewrite; zero for plain.
        first_call_seconds: Tracing, rewriting, compiling and the first step.
    """

    model: str
    strategy: str
    fuse: str
    jit_compile: bool
    seconds: float
    ratio: float
    ratio_low: float
    ratio_high: float
    rounds: int
    trace_seconds: float
    rewrite_seconds: float
    first_call_seconds: float


def memory_row(
    model: str, strategy: str = "auto", how: variants.How = variants.DEFAULT
) -> MemoryRow:
    """Measures the memory of a step, plain and another version, each in a fresh process.

    Args:
        model: A name of `nested_fad_tf.bench.models`.
        strategy: A version as `nested_fad_tf.bench.versions` reads it.
        how: What else the versions are made with.

    Returns:
        The row.

    Raises:
        RefusedError: If the version is a peer that doesn't run.
        RuntimeError: If a measuring process fails; the message ends with its last error lines.
    """
    plain = _measure_in_process(model, versions.PLAIN, dataclasses.replace(how, fuse="auto"))
    other = plain if strategy == versions.PLAIN else _measure_in_process(model, strategy, how)
    if "refused" in other:
        raise peers.RefusedError(peers.Refusal(**other["refused"]))
    return MemoryRow(
        model=model,
        strategy=strategy,
        fuse=how.fuse,
        jit_compile=how.jit_compile,
        graph_ops=plain["graph_ops"],
        plain_peak=plain["peak_bytes"],
        peak=other["peak_bytes"],
        plain_resident=plain["resident_peak_bytes"],
        resident=other["resident_peak_bytes"],
        predicted_before=other.get("predicted_peak_before"),
        predicted_after=other.get("predicted_peak_after"),
        kept_before=other.get("kept_bytes_before"),
        kept_after=other.get("kept_bytes_after"),
        changed=other.get("changed", False),
        method=other["method"],
    )


@functools.cache  # Several strategies share the plain measurement.
def _measure_in_process(model: str, strategy: str, how: variants.How) -> dict[str, Any]:
    asked = {"model": model, "strategy": strategy, **dataclasses.asdict(how)}
    return request.ask("nested_fad_tf.bench.worker", asked)


def time_rows(
    models: list[str],
    strategies: list[str],
    how: variants.How = variants.DEFAULT,
    rounds: int = _LEAST_ROUNDS,
) -> tuple[list[TimeRow], list[peers.Refusal]]:
    """Times steps, all versions of a model alternating in this process.

    Args:
        models: Names of `nested_fad_tf.bench.models`.
        strategies: Versions as `nested_fad_tf.bench.versions` reads them.
        how: What else the versions are made with.
        rounds: How often each version is timed; at least 9.

    Returns:
        For every model a row for plain, for each version, and for the null control; and for the
        peers among the versions that don't run, why.

    Raises:
        ValueError: If there are fewer than 9 rounds.
    """
    if rounds < _LEAST_ROUNDS:
        raise ValueError(f"rounds must be at least {_LEAST_ROUNDS}, not {rounds}")
    chosen = [name for name in strategies if name != versions.PLAIN]
    rows: list[TimeRow] = []
    refused: list[peers.Refusal] = []
    for model in models:
        ready = _ready(model, chosen, how, refused)
        rows += _time_model(model, ready, how, rounds)
    return rows, refused


@dataclasses.dataclass(frozen=True)
class _Version:
    """A step ready to be timed, and what getting it ready took."""

    run: Callable[[], None]
    trace_seconds: float
    rewrite_seconds: float
    first_call_seconds: float


def _ready(
    model: str, strategies: list[str], how: variants.How, refused: list[peers.Refusal]
) -> dict[str, _Version]:
    """All versions of a model by label, called once; what doesn't run is added to a list."""
    problem = models.build(model)
    ready: dict[str, _Version] = {}
    for label in [versions.PLAIN, *strategies, CONTROL]:
        version = versions.PLAIN if label == CONTROL else label
        try:
            with peers.refusing(model, version, "time"):
                own = models.build(model, version=version) if version in catalog.PEERS else problem
                ready[label] = _first_call(own, version, how)
        except peers.RefusedError as error:
            refused.append(error.row)
    return ready


def _time_model(
    model: str, ready: dict[str, _Version], how: variants.How, rounds: int
) -> list[TimeRow]:
    seconds = alternating({label: version.run for label, version in ready.items()}, rounds)
    plain = seconds[versions.PLAIN]
    return [_time_row(model, label, how, ready[label], seconds[label], plain) for label in ready]


def alternating(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Times calls side by side; a first round warms them up.

    Args:
        calls: What to time, by label.
        rounds: How often.

    Returns:
        By label, the seconds of each round.
    """
    seconds: dict[str, list[float]] = {label: [] for label in calls}
    order = list(calls)
    for round_number in range(rounds + 1):
        for label in order:
            start = time.perf_counter()
            calls[label]()
            elapsed = time.perf_counter() - start
            if round_number:  # Round 0 warms up.
                seconds[label].append(elapsed)
        order = order[1:] + order[:1]  # Nobody always follows the same neighbour's cache contents.
    return seconds


def _first_call(problem: models.Problem, version: str, how: variants.How) -> _Version:
    """Traces, rewrites, compiles and runs once, timing each part."""
    step = variants.wrap(problem.step, version, how)
    start = time.perf_counter()
    step.get_concrete_function(*problem.inputs)
    traced = time.perf_counter()
    step(*problem.inputs).numpy()
    end = time.perf_counter()
    rewriting = variants.report_numbers(step).get("rewrite_seconds", 0.0)

    def run() -> None:
        step(*problem.inputs).numpy()

    return _Version(run, traced - start - rewriting, rewriting, end - start)


def _time_row(
    model: str,
    label: str,
    how: variants.How,
    version: _Version,
    seconds: list[float],
    plain: list[float],
) -> TimeRow:
    ratios = [own / other for own, other in zip(seconds, plain, strict=True)]
    return TimeRow(
        model=model,
        strategy=label,
        fuse=how.fuse,
        jit_compile=how.jit_compile,
        seconds=statistics.median(seconds),
        ratio=statistics.median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        rounds=len(seconds),
        trace_seconds=version.trace_seconds,
        rewrite_seconds=version.rewrite_seconds,
        first_call_seconds=version.first_call_seconds,
    )
