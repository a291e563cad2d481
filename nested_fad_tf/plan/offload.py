"""Kept tensors that wait in host memory: what `Options.offload` asks for.

A last resort. Recomputation comes first; what is still kept moves to the host, the first layers'
tensors first, since they wait longest, and no more of them than it takes, because each is copied
twice over the bus. Where that isn't enough, more may move of the plan without a budget.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
from collections.abc import Sequence

from nested_fad_tf.graph.devices import on_cpu
from nested_fad_tf.graph.nodes import Value
from nested_fad_tf.options import Options
from nested_fad_tf.plan import budget
from nested_fad_tf.plan.attempt import Attempt, attempt
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.host_memory import HOST_MEMORY
from nested_fad_tf.plan.stages import Stages

# Smaller tensors aren't worth the way.
_LEAST_BYTES = 64 * 1024
# Without a budget: so close to the least peak there is.
_ABOUT_LEAST = 1.01
_UNUSED = "offload=True unused"
_NO_ACCELERATOR = "what the backward pass reads isn't made on an accelerator"
_COMPILED = "jit_compile=True: the compiler keeps a step on its device"
_NO_GAIN = "it would lower no peak"
_MIB = 2**20


def fit(
    candidates: Candidates,
    stages: Stages,
    bases: Sequence[Attempt],
    limit: int | None,
    options: Options,
) -> tuple[Attempt, str]:
    """Moves as many kept tensors to the host as a budget takes, or as lower the peak.

    Args:
        candidates: The buffers of the forward pass.
        stages: Their stages.
        bases: The plans to start from, the one to be preferred first; none is within the budget.
        limit: The budget in bytes; `None` without one.
        options: How groups are to run.

    Returns:
        The plan, the first one to start from if nothing was to be gained; and what came of it, for
        the report.
    """
    if candidates.view.compiled:
        return bases[0], f"{_UNUSED}: {_COMPILED}"
    movable = [(base, _movable(base)) for base in bases]
    moves = [_Move(candidates, stages, *pair, options) for pair in movable if pair[1]]
    if not moves:
        return bases[0], f"{_UNUSED}: {_NO_ACCELERATOR}"
    enough = (move for move in moves if limit is not None and move.least.peak <= limit)
    move = next(enough, min(moves, key=lambda m: m.least.peak))
    if move.least.peak >= bases[0].peak:
        return bases[0], f"{_UNUSED}: {_NO_GAIN}"
    about_least = _ABOUT_LEAST * move.least.peak
    if limit is None:
        return move.fewest(about_least)
    best, how = move.fewest(max(budget.MARGIN * limit, min(limit, about_least)))
    return best, budget.outcome(best.lifetimes, limit, how)


class _Move:
    """A plan, of which some of what is kept moves to the host.

    Args:
        candidates: The buffers of the forward pass.
        stages: Their stages.
        base: The plan.
        movable: What can move of it, what is to move first first.
        options: How groups are to run.

    Attributes:
        least: The plan with all that can move moved.
    """

    def __init__(
        self,
        candidates: Candidates,
        stages: Stages,
        base: Attempt,
        movable: Sequence[Value],
        options: Options,
    ) -> None:
        self._movable = movable

        @functools.cache
        def moved(count: int) -> Attempt:
            there = dict.fromkeys((v.id for v in movable[:count]), HOST_MEMORY)
            cut = dataclasses.replace(base.cut, stored={**base.cut.stored, **there})
            return attempt(candidates, stages, cut, base.seconds, options)

        self._moved = moved
        self.least = moved(len(movable))

    def fewest(self, aim: float) -> tuple[Attempt, str]:
        """Moves no more than it takes for a peak, or all if none is enough; says how many."""
        there = len(self._movable)
        counts = range(1, there)
        count = 1 + bisect.bisect_left(counts, True, key=lambda n: self._moved(n).peak <= aim)
        mib = sum(v.nbytes for v in self._movable[:count]) / _MIB
        how = f"keeping {mib:.1f} MiB in host memory, {count} of {there} tensors"
        return self._moved(count), how


def _movable(base: Attempt) -> list[Value]:
    """What an accelerator keeps as it is, in the order in which it is made."""
    stored = base.cut.stored
    kept = [v for v in base.cut.kept if v.nbytes >= _LEAST_BYTES and v.shape is not None]
    movable = [v for v in kept if v.id not in stored and not on_cpu(v.node.device)]
    return sorted(movable, key=lambda v: v.id)
