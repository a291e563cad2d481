"""Strategy "auto" with a lossy precision: narrow derivatives, or the exact cut if that needs less.

The minimum cut recomputes what a narrow derivative spares, and neither keeps what the other does.
Both are planned, and the one with the lower simulated peak is taken; of two about equal ones the
one that keeps derivatives, since it recomputes nothing. With a budget that the exact one is within,
nothing has to be lost, and nothing is; matrix products and the like run again only if neither is.
"""

from __future__ import annotations

import dataclasses

from nested_fad_tf.options import Options
from nested_fad_tf.plan import auto, forward_ad
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.plan import Plan

# Peaks that differ by less than this fraction count as equal.
_ABOUT_EQUAL = 0.01
_MIB = 2**20


def plan(candidates: Candidates, options: Options) -> Plan:
    """Plans both ways.

    Args:
        candidates: The buffers of the forward pass.
        options: What may be done; the precision is a lossy one.

    Returns:
        The better plan. Its note says which one it is, and what the other's peak would be.
    """
    exactly = options.replace(precision="exact")
    exact = auto.plan(candidates, exactly.replace(budget=None))
    narrow = forward_ad.plan(candidates, options)
    limit = options.budget_bytes(exact.before.peak_bytes)
    need = narrow.after.peak_bytes
    if limit is None:
        lower = need <= (1 + _ABOUT_EQUAL) * exact.after.peak_bytes
    else:
        loss_is_enough = need <= limit < exact.after.peak_bytes
        if not loss_is_enough:
            exact = auto.plan(candidates, exactly)
        lower = max(need, limit) < exact.after.peak_bytes
    peaks = f"{_mib(narrow)} MiB with derivatives in {options.precision}, {_mib(exact)} MiB exact"
    if narrow.rewrite and lower:
        return dataclasses.replace(narrow, note=_joined(narrow.note, f"predicted peaks: {peaks}"))
    if not exact.rewrite:
        return exact
    why = narrow.reason or f"predicted peaks: {peaks}"
    unused = f"precision {options.precision!r} unused: {why}"
    return dataclasses.replace(exact, note=_joined(exact.note, unused))


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def _mib(plan: Plan) -> str:
    return f"{plan.after.peak_bytes / _MIB:.1f}"
