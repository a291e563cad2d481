"""Strategies "auto" and "recompute": the minimum cut, repeated until the peak stops falling.

The least total of bytes is not the least peak: what is kept but dead by the time of the peak costs
nothing there. So the price of what is alive at the simulated peak is raised and the cut taken
again, and simulated if it promises to be better.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set

from nested_fad_tf.graph.nodes import Value
from nested_fad_tf.options import Options
from nested_fad_tf.plan import budget, cost, offload
from nested_fad_tf.plan.attempt import Attempt, attempt
from nested_fad_tf.plan.bits import BITS
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.chains import Chain, find_chains
from nested_fad_tf.plan.cut import Costs, Cut, Cuts
from nested_fad_tf.plan.groups import unchanged
from nested_fad_tf.plan.peak import Lifetimes
from nested_fad_tf.plan.plan import Decision, Keep, Plan, joined, nothing, worthwhile
from nested_fad_tf.plan.stages import Stages
from nested_fad_tf.plan.storage import kept_as
from nested_fad_tf.plan.streams import with_shared_streams

# How often the cut is repeated with raised prices, and by how much they rise. Each round costs at
# most one simulation.
_ROUNDS = 2
_RAISE = 1.5
# What a cut has to be expected to cost, as a part of the least so far, to be simulated.
_PROMISING = 0.98
# Bytes alone decide in "recompute"; a little is charged so that nothing is recomputed for nothing.
_NEARLY_FREE = 0.05
_MASK = "where a gradient passes, which is all that it asks for"


def plan(candidates: Candidates, options: Options) -> Plan:
    """Plans by minimum cut.

    Args:
        candidates: The buffers of the forward pass.
        options: The strategy "recompute" lets bytes alone decide; "auto" weighs seconds too. A
            budget lets both compute again what they otherwise never do; offload=True lets them move
            to the host what they keep.

    Returns:
        The plan; empty where the simulated peak would not fall.
    """
    before = unchanged(candidates, options)
    tradeoff = options.tradeoff if options.strategy == "auto" else _NEARLY_FREE
    stages = Stages(candidates)
    unlimited = _best(candidates, stages, tradeoff, options)
    best, note = _limited(candidates, stages, unlimited, before, options)
    if not best.rewrite or not worthwhile(before, best.lifetimes):
        return nothing(candidates, options.strategy, before, note=note)
    kept_before = tuple(Keep(v, "read by the backward pass") for v in candidates.kept_today)
    budgeted = best.cut.spans != unlimited.cut.spans
    kept = tuple(_keep(candidates, best.cut, value, budgeted) for value in best.cut.kept)
    kept += tuple(_keep_mask(mask) for mask in best.masks)
    again = best.cut.unshared.recomputed
    decisions = tuple(_decide(chain, best.cut.kept, again) for chain in find_chains(candidates))
    return Plan(
        options.strategy, best.rewrite, kept_before, kept, decisions, before, best.lifetimes,
        note=note,
    )  # fmt: skip


def _limited(
    candidates: Candidates,
    stages: Stages,
    base: Attempt,
    before: Lifetimes,
    options: Options,
) -> tuple[Attempt, str]:
    """Turns a plan into one within the budget, if there is one, and says what came of it."""
    best, note = base, ""
    limit = options.budget_bytes(before.peak_bytes)
    if limit is not None and limit < before.peak_bytes:
        best, note = budget.fit(candidates, stages, base, limit, options)
        if best.peak > before.peak_bytes:
            note = budget.outcome(before, limit, "")
    if not options.offload or (limit is not None and best.peak <= limit):
        return best, note
    bases = [best] if best is base else [best, base]
    moved, outcome = offload.fit(candidates, stages, bases, limit, options)
    if moved is not best:
        return moved, outcome
    return best, joined(note, outcome)


def _best(candidates: Candidates, stages: Stages, tradeoff: float, options: Options) -> Attempt:
    costs = Costs(candidates)
    cuts = Cuts(candidates, costs)
    surcharge: dict[int, float] = {}
    times: dict[int, int] = {}
    best: Attempt | None = None

    def cut_with(checkpoints: frozenset[int]) -> Cut:
        return cuts.minimum(tradeoff, surcharge, times, checkpoints)

    for _ in range(_ROUNDS):
        cut, copies = with_shared_streams(candidates, stages, costs, max(1.0, tradeoff), cut_with)
        seconds = tradeoff * costs.copies(copies)
        if best is not None and _expected(candidates, best, cut, seconds) > _PROMISING * best.price:
            break
        tried = attempt(candidates, stages, cut, seconds, options)
        if best is None or tried.price < best.price:
            best = tried
        alive = {v.id for v in tried.lifetimes.live_at_peak}
        for value in cut.kept:
            if value.id in alive:
                surcharge[value.id] = surcharge.get(value.id, 1.0) * _RAISE
        for node_id, count in copies.items():
            times[node_id] = max(count, times.get(node_id, 1))
    assert best is not None
    return best


def _expected(candidates: Candidates, tried: Attempt, cut: Cut, seconds: float) -> float:
    """What a cut will cost if the peak stays where it is in the simulation of another one."""
    live, size = tried.lifetimes.live_at_peak, candidates.stored_bytes
    live_ids = {v.id for v in live} | tried.cut.stored.keys()
    before, now = ({v.id for v in c.kept} for c in (tried.cut, cut))
    added = sum(size(v) for v in cut.kept if v.id not in before)
    dropped = sum(size(v) for v in tried.cut.kept if v.id in live_ids and v.id not in now)
    # Copies are alive at the peak, too, of what is no longer computed again.
    no_longer = tried.cut.unshared.recomputed - cut.unshared.recomputed
    origins = ((v.nbytes, v.node.origin) for v in live)
    dropped += sum(nbytes for nbytes, origin in origins if origin and origin.id in no_longer)
    return tried.peak + added - dropped + seconds


def _keep(candidates: Candidates, cut: Cut, value: Value, budgeted: bool) -> Keep:
    ban = candidates.bans.get(value.node.id)
    if budgeted and ban is not None and cost.lasting_ban(candidates.view, value.node) is None:
        why = "a checkpoint: the budget allows for keeping it, or more is computed from it"
    elif ban is not None:
        why = ban
    elif value.id in candidates.needed:
        why = "the backward pass reads it, and it costs no more than what it is computed from"
    else:
        why = "what the backward pass reads is recomputed from it"
    format = cut.stored.get(value.id)
    if format is None:
        return Keep(value, why)
    return Keep(value, why + kept_as(format), format.name, candidates.stored_bytes(value))


def _keep_mask(mask: Value) -> Keep:
    if mask.dtype.is_bool:
        return Keep(mask, _MASK)
    return Keep(mask, _MASK + kept_as(BITS), BITS.name)


def _decide(chain: Chain, all_kept: Sequence[Value], recomputed: Set[int]) -> Decision:
    own = {node.id for node in chain.nodes}
    kept = tuple(v for v in all_kept if v.node.id in own)
    again = sum(node.id in recomputed for node in chain.nodes)
    if not again:
        return Decision(chain, "keep", kept, "keeping costs no more than recomputing")
    counts = Counter(v.node.op_type for v in kept)
    sources = [op_type if n == 1 else f"{n} {op_type}" for op_type, n in counts.items()]
    source = ", ".join(sources) or "its inputs"
    return Decision(chain, "recompute", kept, f"{again} ops recomputed from {source}")
