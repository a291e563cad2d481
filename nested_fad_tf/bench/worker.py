"""Measures one variant of one model's step in a process of its own.

    python -m nested_fad_tf.bench.worker --json '{"model": "mish_mlp", "strategy": "auto"}'

The last line printed is the answer, JSON. A fresh process, because the resident set can only be
trusted where nothing ran before, and one thread for ops, because their order decides the peak.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

import tensorflow as tf

from nested_fad_tf.bench import models, peers, request, variants
from nested_fad_tf.report import memory, process


def measure(
    model: str, strategy: str, fuse: str = "auto", jit_compile: bool = False
) -> dict[str, Any]:
    """Measures the memory of a training step.

    Args:
        model: A name of `nested_fad_tf.bench.models`.
        strategy: A version as `nested_fad_tf.bench.versions` reads it.
        fuse: How fused groups run, where the version doesn't say.
        jit_compile: Whether XLA compiles the step as a whole.

    Returns:
        peak_bytes, total_peak_bytes, resident_peak_bytes (whole process, above what it held before
        the step; None where it can't be measured), method and graph_ops; for rewritten steps also
        kept and predicted bytes, before and after. Of a peer that doesn't run, `refused`: the
        fields of a `Refusal`.
    """
    try:
        with peers.refusing(model, strategy, "memory"):
            return _measure(model, strategy, variants.How(fuse, jit_compile))
    except peers.RefusedError as error:
        return {"refused": dataclasses.asdict(error.row)}


def _measure(model: str, strategy: str, how: variants.How) -> dict[str, Any]:
    problem = models.build(model, version=strategy)
    step = variants.wrap(problem.step, strategy, how)
    measured = memory.measure(step, *problem.inputs, runs=1)
    try:
        resident: int | None = process.resident_peak(lambda: step(*problem.inputs))[0]
    except RuntimeError:
        resident = None
    graph = step.get_concrete_function(*problem.inputs).graph
    return {
        "peak_bytes": measured.peak_bytes,
        "total_peak_bytes": measured.total_peak_bytes,
        "resident_peak_bytes": resident,
        "method": measured.method,
        "graph_ops": len(graph.get_operations()),
        **variants.report_numbers(step),
    }


def main(arguments: list[str]) -> None:
    """Answers one request.

    Args:
        arguments: Command-line arguments without the program's name.
    """
    asked = request.parse("nested_fad_tf.bench.worker", "measure", arguments)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    print(json.dumps(measure(**asked)))


if __name__ == "__main__":
    main(sys.argv[1:])
