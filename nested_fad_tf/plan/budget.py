"""Within a budget: matrix products, convolutions and the like are computed again, too.

The cut of "auto" never recomputes those, and keeps at least one tensor between any two of them. To
need less, the stages of the backward pass are divided into spans, and before each of some spans the
piece of the forward pass that it reads runs once more, from checkpoints (Chen et al., arXiv
1604.06174; what to keep under a budget: Jain et al., arXiv 1910.02653). Which tensors are
checkpoints is again a minimum cut, between what a span needs and the arguments of the function, so
that they lie where the model is narrow. What the plan that a choice starts from recomputes is
recomputed by each stage as before. plan/spans.py makes the spans.

There are several plans to start from: that of "auto", and patient ones, at a higher price of time,
which leave more to be recomputed by spans: the stages of a span share what it makes. How many
spans there are, which of them are computed again, and at what price of time, makes a family of
choices for each. Of those that are about within the budget some are mixed row by row, as long as
that makes them cheaper. Peaks are estimated from the simulation of the plan that a choice starts
from; the cheapest choice that a simulation of its own finds to be within the budget is taken, and
what that leaves of the budget is spent (plan/spending.py). The plan of "auto" comes first: where it
is within the budget, a budget changes nothing.

How far this is from the best there is on small graphs: scripts/budget_yardstick.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.graph.roles import Role
from nested_fad_tf.options import Options
from nested_fad_tf.plan import cost
from nested_fad_tf.plan.attempt import Attempt, attempt
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.cut import Costs, Cut, Cuts
from nested_fad_tf.plan.estimate import Estimator
from nested_fad_tf.plan.peak import Lifetimes
from nested_fad_tf.plan.spans import COUNTS, Divisions, Piece
from nested_fad_tf.plan.spending import Spending
from nested_fad_tf.plan.stages import Stages

# Which shares of the spans, counted from the first layers, are computed again.
_SHARES = (0.25, 0.5, 0.75, 0.9, 1.0)
# How many mixtures are estimated for each division, about.
_EFFORT = 600
# Estimates leave out what a piece of the forward pass needs while it runs again.
_SLACK = 1.1
# What time costs, in multiples of what the options ask for, in further plans to start from: they
# leave to spans, which share what they make, what each stage would compute again for itself.
_PATIENCE = (16.0, 256.0)
# How much lower the peak of a choice has to be than that of a cheaper one.
_STEP = 0.97
# Measured peaks are off the simulated ones by a few percent: so much is left to them, if it can be.
MARGIN = 0.95
# In the notes, what stands before how a budget is met, or why it isn't.
MET, MISSED = " is met by ", " is not met: "
_MIB = 2**20
_SHOWN = 3
# How many choices are tried if none is estimated to be within the budget.
_TRIED_ANYWAY = 3


@dataclasses.dataclass(frozen=True)
class _Choice:
    """A cut with spans.

    Attributes:
        cut: The cut.
        peak: Its estimated peak in bytes.
        price: The price of its spans.
        total: The price of all that runs again.
        rows: For each row of stages its span, if it has one.
    """

    cut: Cut
    peak: int
    price: float
    total: float
    rows: tuple[Piece | None, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Try:
    """What a simulation found of a choice, and the price of its spans."""

    attempt: Attempt
    price: float


def fit(
    candidates: Candidates, stages: Stages, base: Attempt, limit: int, options: Options
) -> tuple[Attempt, str]:
    """Finds the cheapest plan whose simulated peak is within a budget.

    Args:
        candidates: The buffers of the forward pass.
        stages: Their stages.
        base: The plan without a budget.
        limit: The budget in bytes.
        options: How groups are to run.

    Returns:
        The plan, the least that was found if none is within the budget; and what came of it, for
        the report.
    """
    costs = Costs(candidates)
    cuts = Cuts(relax(candidates), costs)
    first, *patient = _starts(candidates, stages, costs, base, options)
    families = [_Family(cuts, costs, stages, first, ())]
    families += [_Family(cuts, costs, stages, s, base.cut.kept) for s in patient]
    choices = [family.choices(limit) for family in families]
    met: _Try | None = None
    least = base
    for tried in _tries(candidates, stages, base, choices, limit, options):
        peak = tried.attempt.peak
        if peak < least.peak:
            least = tried.attempt
        if peak <= MARGIN * limit or (peak <= limit and met is None):
            met = tried
        if peak <= MARGIN * limit:
            break
    if met is None:
        return least, outcome(least.lifetimes, limit, "")
    if met.attempt is not base:
        # What is left of the budget, but for the margin if that is kept to.
        within = MARGIN * limit if met.attempt.peak <= MARGIN * limit else limit
        spent = Spending(candidates, stages, costs, options).spend(met.attempt, within)
        met = _Try(spent, met.price - met.attempt.seconds + spent.seconds)
    how = _how(met, families[0].forward_price)
    return met.attempt, outcome(met.attempt.lifetimes, limit, how)


def outcome(found: Lifetimes, limit: int, how: str) -> str:
    """Says what came of a budget.

    Args:
        found: What the plan comes to, or the one with the least peak.
        limit: The budget in bytes.
        how: By what it is met, if it is.

    Returns:
        A note for the report.
    """
    asked = f"the budget of {limit / _MIB:.1f} MiB"
    if found.peak_bytes <= limit:
        return asked + MET + how
    return asked + MISSED + _what_is_least(found)


def _tries(
    candidates: Candidates,
    stages: Stages,
    base: Attempt,
    choices: Sequence[Sequence[_Choice]],
    limit: int,
    options: Options,
) -> Iterator[_Try]:
    """Simulates the plan without a budget, then what is likely to be within it, by price."""
    yield _Try(base, 0.0)
    for choice in _worth_trying(choices, limit):
        tried = attempt(candidates, stages, choice.cut, choice.total, options)
        yield _Try(tried, choice.price)


def _starts(
    candidates: Candidates, stages: Stages, costs: Costs, base: Attempt, options: Options
) -> Iterator[Attempt]:
    """The plans without spans that choices start from: that without a budget, and patient ones."""
    flat = base.cut.unshared
    yield base if flat == base.cut else attempt(candidates, stages, flat, 0.0, options)
    seen = [flat]
    # What only the backward pass reads runs once in any case, be it there.
    roles, nodes = candidates.roles, candidates.view.nodes
    late = candidates.late
    times = {n.id: 0 for n in nodes if late[n.id] or roles.of(n) is Role.UNCLAIMED}
    cuts = Cuts(candidates, costs)
    for patience in _PATIENCE:
        cut = cuts.minimum(patience * max(options.tradeoff, 1.0), times=times)
        if cut not in seen:
            seen.append(cut)
            yield attempt(candidates, stages, cut, 0.0, options)


def _how(tried: _Try, forward_price: float) -> str:
    pieces = len(tried.attempt.cut.spans)
    if not (pieces and tried.price):  # shared streams are element-wise
        return "recomputing element-wise ops alone"
    share = tried.price / forward_price
    in_pieces = "one piece" if pieces == 1 else f"{pieces} pieces"
    return f"running {share:.0%} of the forward pass again, in {in_pieces}"


def _what_is_least(found: Lifetimes) -> str:
    """What stands in the way of less."""
    alive = found.live_at_peak[:_SHOWN]
    largest = ", ".join(f"{v.name} ({v.nbytes / _MIB:.1f} MiB)" for v in alive)
    peak = found.peak_bytes / _MIB
    return f"the least that was found is {peak:.1f} MiB, at a time when {largest} are alive"


def _worth_trying(families: Sequence[Sequence[_Choice]], limit: int) -> list[_Choice]:
    """Those about within the budget, of the choices that none of the same family beats.

    They come by price. If there are none, those with the lowest peaks may do better than estimated.
    """
    # What an estimate is off by differs from one plan to start from to another.
    front = [choice for choices in families for choice in _front(choices)]
    near = [c for c in front if c.peak <= _SLACK * limit]
    worth = near or sorted(front, key=lambda c: c.peak)[:_TRIED_ANYWAY]
    return sorted(worth, key=lambda c: c.total)


def _front(choices: Sequence[_Choice]) -> list[_Choice]:
    """The choices that none beats in time and memory."""
    front: list[_Choice] = []
    for choice in sorted(choices, key=lambda c: (c.total, c.peak)):
        if not front or choice.peak < _STEP * front[-1].peak:
            front.append(choice)
    return front


class _Family:
    """The choices that start from one plan.

    Args:
        cuts: Those of the graph, with what `relax` lets run again.
        costs: The prices of running nodes again.
        stages: Their stages.
        base: The plan to start from; it has no spans.
        checkpoints: What spans may start from as if it were kept anyway, as one more way.

    Attributes:
        forward_price: The price of running the whole forward pass again.
    """

    def __init__(
        self,
        cuts: Cuts,
        costs: Costs,
        stages: Stages,
        base: Attempt,
        checkpoints: Sequence[Value],
    ) -> None:
        self._base = base.cut
        self._relaxed = relaxed = cuts.candidates
        self._estimator = Estimator(relaxed.view, base.lifetimes, stages.aside)
        # What a span can do something about: by storage root, the stages that read it.
        readers = stages.readers_of(base.cut).items()
        self._readers = {root: read for root, read in readers if root not in base.cut.stored}
        self._prices = {
            n.id: costs.recompute(n)
            for n in relaxed.view.nodes
            if not relaxed.roles.cotangent[n.id] and self._may_run_again(n)
        }
        self._divisions = Divisions(cuts, stages.in_order, self._readers, self._prices, checkpoints)
        self.forward_price = sum(self._prices.values())
        self._base_price = sum(
            count * self._prices.get(i, 0.0) for i, count in stages.copies(base.cut).items()
        )

    def choices(self, limit: float) -> list[_Choice]:
        """All of them, each once; of those within a limit some that are mixed of several."""
        found: dict[tuple[tuple[Value, ...], int], _Choice] = {}
        for count in COUNTS:
            ways = list(self._divisions.ways(count))
            of_rows = list(zip(*ways, strict=True))
            made = []
            for pieces in ways:
                for share in _SHARES:
                    first = len(pieces) - max(1, round(share * len(pieces)))
                    made.append(self._choice([*[None] * first, *pieces[first:]]))
            for aim in (MARGIN * limit, limit):
                within = [c for c in made if c.peak <= aim]
                if within:
                    cheapest = min(within, key=lambda c: c.total)
                    made.append(self._mixed(cheapest, of_rows, aim))
            for choice in made:
                known = choice.cut.kept, choice.peak
                old = found.get(known)
                if old is None or choice.total < old.total:
                    found[known] = choice
        return list(found.values())

    def _mixed(self, choice: _Choice, ways: Sequence[Sequence[Piece]], limit: float) -> _Choice:
        """Changes what is done about single rows as long as that is cheaper and within a limit."""
        left = _EFFORT
        while left > 0:
            best = choice
            for row, pieces in enumerate(ways):
                for piece in (None, *pieces):
                    rows = [*choice.rows[:row], piece, *choice.rows[row + 1 :]]
                    other = self._choice(rows)
                    if other.peak <= limit and other.total < best.total:
                        best = other
                    left -= 1
            if best is choice:
                break
            choice = best
        return choice

    def _choice(self, rows: Sequence[Piece | None]) -> _Choice:
        """The cut in which some pieces run again."""
        pieces = [p for p in rows if p is not None and p.recomputed]
        covered = frozenset().union(*(p.stages for p in pieces))
        kept = {v.id: v for p in pieces for v in p.kept}
        for root in self._base.kept:
            readers = self._readers.get(root.id)
            if readers is None or any(s.id not in covered for s in readers):
                kept[root.id] = root
        ordered = tuple(kept[i] for i in sorted(kept))
        spans = tuple(span for p in pieces for span in p.spans)
        cut = Cut(ordered, self._base.recomputed, spans, self._relaxed.stored(ordered))
        price = self._price(pieces, kept)
        total = self._base_price + price
        return _Choice(cut, self._peak(pieces, kept), price, total, tuple(rows))

    def _peak(self, pieces: Sequence[Piece], kept: Mapping[int, Value]) -> int:
        """The estimated peak in bytes."""
        start = {id: span.first for p in pieces for span in p.spans for id in span.stages}
        base = {root.id for root in self._base.kept}
        resumed = {root: start[self._readers[root][0].id] for root in base - kept.keys()}
        # The pieces come in the order in which they run: the last one that reads it counts.
        added = {v.id: p.first for p in pieces for v in p.kept if v.id not in base}
        held = [h for p in pieces for h in p.held if h[0].id not in kept]
        return self._estimator.peak(resumed, added, held)

    def _price(self, pieces: Sequence[Piece], kept: Mapping[int, Value]) -> float:
        there = {v.node.id for v in kept.values()}
        spans = [span for p in pieces for span in p.spans]
        spared = (self._prices.get(i, 0.0) for span in spans for i in span.recomputed & there)
        return sum(p.price for p in pieces) - sum(spared)

    def _may_run_again(self, node: Node) -> bool:
        relaxed = self._relaxed
        large = any(v.storage is v and not relaxed.free[v.id] for v in node.outputs)
        return large and node.id not in relaxed.bans


def relax(candidates: Candidates) -> Candidates:
    """Lets everything be computed again that can be without being noticed.

    Args:
        candidates: The buffers of the forward pass.

    Returns:
        The same, with the bans that a budget doesn't lift.
    """
    view = candidates.view

    def lasts(node: Node, why: str) -> bool:
        # Bans for other reasons than a price are there for what is computed, not for what it takes.
        return cost.lasting_ban(view, node) is not None or why != cost.recompute_ban(view, node)

    lasting = {i: why for i, why in candidates.bans.items() if lasts(view.nodes[i], why)}
    return dataclasses.replace(candidates, bans=lasting)
