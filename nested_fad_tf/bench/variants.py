"""The versions of a step that are compared: plain TensorFlow, peers, and rewrites."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from nested_fad_tf.bench import peers, versions


@dataclasses.dataclass(frozen=True)
class How:
    """What else, beside the strategy, the versions of a step are made with.

    Attributes:
        fuse: How fused groups run, where a version's name doesn't say.
        jit_compile: Whether XLA compiles the step as a whole, plain and rewritten.
    """

    fuse: str = "auto"
    jit_compile: bool = False


DEFAULT = How()


def wrap(function: Callable[..., Any], version: str, how: How = DEFAULT) -> Any:
    """Makes a graph function of a Python function.

    Args:
        function: A step or gradient function of a `Problem` that was built for this version.
        version: A name as `nested_fad_tf.bench.versions` reads it.
        how: What else it is made with.

    Returns:
        A `tf.function` or its rewriting drop-in. A rewrite that fails raises: a benchmark must not
        measure the fallback by accident.
    """
    compiled = how.jit_compile or peers.is_compiled(version) or None
    # The steps hold no Python control flow on tensors, so autograph would only slow tracing down.
    if not versions.is_rewrite(version):
        return tf.function(function, autograph=False, jit_compile=compiled)
    import nested_fad_tf

    options = versions.options(version, how.fuse)
    return nested_fad_tf.function(function, options=options, autograph=False, jit_compile=compiled)


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
