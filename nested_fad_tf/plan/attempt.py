"""From a cut to a rewrite that has been run on paper."""

from __future__ import annotations

import dataclasses

from nested_fad_tf.graph.nodes import Value
from nested_fad_tf.options import Options
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.cut import Cut
from nested_fad_tf.plan.groups import grouped
from nested_fad_tf.plan.peak import Lifetimes
from nested_fad_tf.plan.recompute import Recomputation
from nested_fad_tf.plan.rewrite import Rewrite
from nested_fad_tf.plan.shapes import fold_shapes
from nested_fad_tf.plan.stages import Stages


@dataclasses.dataclass(frozen=True)
class Attempt:
    """What comes of a cut.

    Attributes:
        cut: The cut.
        rewrite: What brings it about.
        lifetimes: Those of the rewritten graph.
        seconds: The price of what is computed again, as bytes: see plan/cost.py.
        masks: What is kept beside what the cut keeps: see plan/masks.py.
    """

    cut: Cut
    rewrite: Rewrite
    lifetimes: Lifetimes
    seconds: float
    masks: tuple[Value, ...]

    @property
    def peak(self) -> int:
        """The simulated peak in bytes."""
        return self.lifetimes.peak_bytes

    @property
    def price(self) -> float:
        """What the attempt costs in memory and time."""
        return self.peak + self.seconds


def attempt(
    candidates: Candidates, stages: Stages, cut: Cut, seconds: float, options: Options
) -> Attempt:
    """Makes the rewrite of a cut and simulates it.

    Args:
        candidates: The buffers of the forward pass.
        stages: Their stages.
        cut: What is kept and what is computed again.
        seconds: The price of the latter.
        options: How groups are to run.

    Returns:
        The attempt.
    """
    recomputation = Recomputation(candidates, stages, cut)
    recomputation.redirect_readers()
    builder = recomputation.builder
    for node in candidates.view.nodes:
        # What is kept, and not recomputed, may be computed in the forward pass.
        if node.id not in cut.recomputed and candidates.is_tied_factor(node):
            builder.release(node)
    if cut.recomputed or cut.spans:
        fold_shapes(candidates, builder)
    rewrite, lifetimes = grouped(candidates, builder.build(), options)
    return Attempt(cut, rewrite, lifetimes, seconds, tuple(recomputation.masks.kept))
