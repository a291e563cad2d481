"""Trains two steps of a model in a process whose memory is limited, and tells whether that went.

    python -m nested_fad_tf.bench.limited --json ARGUMENTS    # those of train(), as a JSON object

The limit is RLIMIT_DATA, by which Linux counts all that a process may write to and doesn't share
with a file: what it allocated, weights and optimizer slots included, and its threads' stacks.
Past it an allocation really fails. The last line printed is the answer, JSON.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
from typing import Any

import tensorflow as tf

from nested_fad_tf.bench import models, peers, request, variants
from nested_fad_tf.report import process

_MODULE = "nested_fad_tf.bench.limited"
# Two, since the second one runs beside what the first one left: slots, compiled code, pools.
_STEPS = 2


def train(
    model: str, strategy: str, limit: int, fuse: str = "auto", jit_compile: bool = False
) -> dict[str, Any]:
    """Trains in this process, which can't have more than the limit from then on.

    Args:
        model: A name of `nested_fad_tf.bench.models`.
        strategy: A version as `nested_fad_tf.bench.versions` reads it.
        limit: The most that the process may allocate, in bytes.
        fuse: How fused groups run, where the version doesn't say.
        jit_compile: Whether XLA compiles the step as a whole.

    Returns:
        `needed`, what the process had at most, in bytes, or `out`, what could not be allocated. Of
        a peer that doesn't run, `refused`: the fields of a `Refusal`.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        with peers.refusing(model, strategy, "batch"):
            return _train(model, strategy, variants.How(fuse, jit_compile))
    except peers.RefusedError as error:
        return {"refused": dataclasses.asdict(error.row)}


def _train(model: str, strategy: str, how: variants.How) -> dict[str, Any]:
    try:
        problem = models.build(model, version=strategy)
        step = variants.wrap(problem.step, strategy, how)
        for _ in range(_STEPS):
            step(*problem.inputs).numpy()
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        return {"out": _first_line(error)}
    return {"needed": process.largest_data()}


def _first_line(error: BaseException) -> str:
    """What was asked for, if the error says so."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if "OOM" in line or "memory" in line.lower()]
    return (said or lines or [""])[0] or type(error).__name__


def main(arguments: list[str]) -> None:
    """Answers one request.

    Args:
        arguments: Command-line arguments without the program's name.
    """
    asked = request.parse(_MODULE, "train", arguments)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    print(json.dumps(train(**asked)))


if __name__ == "__main__":
    main(sys.argv[1:])
