"""Plans that may lose something, beside the exact one: narrow derivatives, narrow activations.

The minimum cut recomputes what a narrow derivative spares, and neither keeps what the other does;
narrow activations take the place of wide ones in the cut. All that the options allow is planned,
and the one with the lowest simulated peak is taken; a lossy plan that is about equal to the exact
one before that, since it recomputes less. With a budget that the exact one is within, nothing has
to be lost, and nothing is; matrix products and the like run again only if no plan is within it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from nested_fad_tf.options import Options
from nested_fad_tf.plan import auto, forward_ad
from nested_fad_tf.plan.activations import narrowed
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.groups import unchanged
from nested_fad_tf.plan.plan import Plan, joined, nothing

# Peaks that differ by less than this fraction count as equal.
_ABOUT_EQUAL = 0.01
_MIB = 2**20
_COMPILED = "jit_compile=True: the compiler packs what is kept when it likes"


def plan(candidates: Candidates, options: Options) -> Plan:
    """Plans in all ways.

    Args:
        candidates: The buffers of the forward pass.
        options: What may be done, something lossy among it.

    Returns:
        The best plan. Its note says which one it is, and what the others' peaks would be.
    """
    exactly = options.replace(precision="exact", activations="exact", rounding="nearest")
    exact = auto.plan(candidates, exactly.replace(budget=None))
    lossy = _lossy_plans(candidates, options.replace(budget=None))
    limit = options.budget_bytes(exact.before.peak_bytes)
    if limit is not None and (_peak(exact) <= limit or min(map(_peak, lossy.values())) > limit):
        exact = auto.plan(candidates, exactly)
        if _peak(exact) > limit and "activations" in lossy:
            # Nested forward-mode AD recomputes nothing: no budget makes a difference to it.
            lossy["activations"] = _with_narrow_activations(candidates, options)
    best = min((p for p in lossy.values() if p.rewrite), key=_peak, default=exact)
    each = [
        f"{_mib(p)} MiB with {_NARROW[how]} in {getattr(options, how)}" for how, p in lossy.items()
    ]
    peaks = "predicted peaks: " + ", ".join([*each, f"{_mib(exact)} MiB exact"])
    if best is not exact and _is_better(best, exact, limit):
        return dataclasses.replace(best, note=joined(best.note, peaks))
    if not exact.rewrite:
        return exact
    reasons = dict.fromkeys(p.reason for p in lossy.values() if p.reason)
    unused = f"{options.lossy} unused: {'; '.join(reasons) or peaks}"
    return dataclasses.replace(exact, note=joined(exact.note, unused))


def _is_better(lossy: Plan, exact: Plan, limit: int | None) -> bool:
    if limit is None:
        return _peak(lossy) <= (1 + _ABOUT_EQUAL) * _peak(exact)
    return max(_peak(lossy), limit) < _peak(exact)


def _lossy_plans(candidates: Candidates, options: Options) -> dict[str, Plan]:
    """A plan for each option that is lossy, by the option's name."""
    return {
        how: way(candidates, options)
        for how, way in _WAYS.items()
        if getattr(options, how) != "exact"
    }


def _with_narrow_activations(candidates: Candidates, options: Options) -> Plan:
    """The minimum cut, in which what is kept takes less."""
    if candidates.view.compiled:
        before = unchanged(candidates, options)
        return nothing(candidates, options.strategy, before, _COMPILED)
    return auto.plan(narrowed(candidates, options), options)


_WAYS: Mapping[str, Callable[[Candidates, Options], Plan]] = {
    "precision": forward_ad.plan,
    "activations": _with_narrow_activations,
}
# What is narrow with each of them.
_NARROW = {"precision": "derivatives", "activations": "activations"}


def _peak(plan: Plan) -> int:
    return plan.after.peak_bytes


def _mib(plan: Plan) -> str:
    return f"{_peak(plan) / _MIB:.1f}"
