"""The versions of a step that are compared: plain TensorFlow, and one rewrite per strategy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

PLAIN = "plain"
_TRADEOFF = " tradeoff="


@dataclasses.dataclass(frozen=True)
class How:
    """What else, beside the strategy, the versions of a step are made with.

    Attributes:
        fuse: How fused groups run, as in `nested_fad_tf.Options`.
        jit_compile: Whether XLA compiles the step as a whole, plain and rewritten.
    """

    fuse: str = "auto"
    jit_compile: bool = False


DEFAULT = How()


def wrap(function: Callable[..., Any], strategy: str, how: How = DEFAULT) -> Any:
    """Makes a graph function of a Python function.

    Args:
        function: A step or gradient function of a `Problem`.
        strategy: "plain" for `tf.function`, a strategy of `nested_fad_tf.Options`, or what
            `with_tradeoff` gave.
        how: What else it is made with.

    Returns:
        A `tf.function` or its rewriting drop-in. A rewrite that fails raises: a benchmark must not
        measure the fallback by accident.
    """
    # The steps hold no Python control flow on tensors, so autograph would only slow tracing down.
    if strategy == PLAIN:
        return tf.function(function, autograph=False, jit_compile=how.jit_compile or None)
    import nested_fad_tf

    name, *tradeoff = strategy.split(_TRADEOFF)
    changes = {"tradeoff": float(tradeoff[0])} if tradeoff else {}
    options = nested_fad_tf.Options(strategy=name, fuse=how.fuse, on_error="raise", **changes)  # type: ignore[arg-type]
    return nested_fad_tf.function(
        function, options=options, autograph=False, jit_compile=how.jit_compile or None
    )


def with_tradeoff(tradeoff: float) -> str:
    """The version of a step that weighs bytes and seconds in another way.

    Args:
        tradeoff: As in `nested_fad_tf.Options`.

    Returns:
        What `wrap` takes for a strategy.
    """
    return f"auto{_TRADEOFF}{tradeoff:g}"


def report_numbers(function: Any) -> dict[str, Any]:
    """The numbers of the last rewrite's report.

    Args:
        function: What `wrap` gave, traced.

    Returns:
        changed, kept_bytes_before/after, predicted_peak_before/after, again_seconds,
        rewrite_seconds; empty for plain functions.
    """
    reports = getattr(function, "reports", None)
    if not reports:
        return {}
    report = reports[-1]
    return {
        "changed": report.changed,
        "kept_bytes_before": report.kept_bytes_before,
        "kept_bytes_after": report.kept_bytes_after,
        "predicted_peak_before": report.predicted_peak_before,
        "predicted_peak_after": report.predicted_peak_after,
        "again_seconds": report.predicted_seconds_again,
        "rewrite_seconds": report.seconds,
    }
