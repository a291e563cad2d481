"""A step whose backward pass a budget divides, and the choices that it has."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
from traced import SQUARE

import nested_fad_tf as nfad
from nested_fad_tf.plan import budget
from nested_fad_tf.plan.attempt import Attempt, attempt
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.cut import Costs, Cuts, minimum_cut
from nested_fad_tf.plan.stages import Stages

OPTIONS = nfad.Options(fuse="ops", min_bytes=1024, on_error="raise")
# So many layers of `traced.layers`, and what each of them makes.
LAYERS = 12
ROWS = tf.TensorSpec([2048, 128])
SIZE = 2048 * 128 * 4
SPECS = (ROWS, *[SQUARE] * LAYERS)


def base_of(candidates: Candidates, stages: Stages, tradeoff: float = 1.0) -> Attempt:
    """A plan without a budget, at a price of time."""
    return attempt(candidates, stages, minimum_cut(candidates, tradeoff), 0.0, OPTIONS)


def choices_of(candidates: Candidates, stages: Stages, base: Attempt) -> Sequence[budget._Choice]:
    """All that a budget may choose from, of what starts from a plan."""
    costs = Costs(candidates)
    cuts = Cuts(budget.relax(candidates), costs)
    return budget._Family(cuts, costs, stages, base, ()).choices(0.0)


def nested(choices: Sequence[budget._Choice]) -> Sequence[budget._Choice]:
    """Those with spans within others."""
    return [c for c in choices if any(span.outer for span in c.cut.spans)]
