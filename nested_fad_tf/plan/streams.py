"""A chain that every layer adds to, such as a residual stream, computed once for several layers.

The minimum cut charges for computing an op again once. But each stage of the backward pass makes
copies of its own, and along a residual stream the stages of a layer copy what all layers before it
added: the copies grow with the square of the depth. So where they cost more than it takes to keep
the stream, the stream gets rungs. Of n rungs every sqrt(n)-th is kept (Chen et al., arXiv
1604.06174), and those in between are computed once, from the one before, and shared by all stages
down to that one: each op of the stream runs once more, which is what the cut charged for. Where it
is cheaper to keep all rungs that are worth it by themselves, none is shared.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Set

from nested_fad_tf.graph.nodes import Node
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.components import Components
from nested_fad_tf.plan.cut import Costs, Cut, Span
from nested_fad_tf.plan.stages import Stages

# With fewer rungs it isn't what layers add to, but the inside of one of them.
_LEAST_RUNGS = 2
# What is shared is alive for a few layers: it is worth a part of what keeping it would be.
_SHARING = 0.2


def with_shared_streams(
    candidates: Candidates,
    stages: Stages,
    costs: Costs,
    tradeoff: float,
    cut_with: Callable[[frozenset[int]], Cut],
) -> tuple[Cut, Mapping[int, int]]:
    """Cuts, and lets stages share what they would copy too often.

    Args:
        candidates: The buffers and their prices.
        stages: Their stages.
        costs: What cuts are decided by.
        tradeoff: Multiplies the price of a copy.
        cut_with: Makes the minimum cut that keeps nodes with certain ids.

    Returns:
        The cut, without spans if there is no such stream; and how often it computes nodes again,
        by node id.
    """
    cut = cut_with(frozenset())
    copies = stages.copies(cut)
    sparse = _Stream(candidates, cut, costs, copies, 1.0 / tradeoff)
    if max(sparse.rungs.values(), default=0) < _LEAST_RUNGS:
        return cut, copies
    dense = _Stream(candidates, cut, costs, copies, _SHARING / tradeoff)
    shared = _shared(stages, cut_with(dense.checkpoints()), dense.rungs.keys())
    kept = cut_with(frozenset(sparse.rungs))
    best, least = (cut, copies), math.inf
    for cut in (shared, kept):
        held = _held(candidates, costs, cut)
        if held < least:  # else it is dearer whatever it computes again
            copies = stages.copies(cut)
            price = held + tradeoff * costs.copies(copies)
            if price < least:
                best, least = (cut, copies), price
    return best


def _held(candidates: Candidates, costs: Costs, cut: Cut) -> float:
    """The price of what a cut keeps, and of what spans hold at a time."""
    nodes = candidates.view.nodes
    held = (sum(v.nbytes for i in s.recomputed for v in nodes[i].outputs) for s in cut.spans)
    return sum(costs.keep(v) for v in cut.kept) + max(held, default=0)


def _shared(stages: Stages, cut: Cut, rungs: Set[int]) -> Cut:
    """A cut in which stages share the rungs that are computed again."""
    spans = _spans(stages, cut, rungs & cut.recomputed)
    own = frozenset().union(*(span.recomputed for span in spans))
    return dataclasses.replace(cut, recomputed=cut.recomputed - own, spans=spans)


def _spans(stages: Stages, cut: Cut, rungs: Set[int]) -> tuple[Span, ...]:
    """Joins stages that copy the same rungs."""
    wanted = {i: by for i, by in stages.copying(cut, rungs).items() if len(by) > 1}
    of = {stage.id: stage for by in wanted.values() for stage in by}
    together = Components()
    for stage_id in of:
        together.add(stage_id)
    for by in wanted.values():
        for stage in by[1:]:
            together.join(by[0].id, stage.id)
    spans = []
    for group in together.groups(sorted(of)):
        own = frozenset(group)
        made = frozenset(i for i, by in wanted.items() if by[0].id in own)
        spans.append(Span(of[group[0]], own, made))
    return tuple(spans)


class _Stream:
    """What a cut computes again, as far as it is copied by ever fewer stages.

    Rungs are where copies cost as much as keeping, or a part of that. Of n layers that each add ops
    of price p to a stream of price k, keeping every m-th costs n / m * k, and copies cost
    n * m / 2 * p: that is least where m * m / 2 * p is k.

    Args:
        candidates: The buffers and their prices.
        cut: The cut.
        costs: What it was decided by.
        copies: How often it computes each node again, by node id.
        worth: What a rung is worth, as a part of the price of keeping it.

    Attributes:
        rungs: Node ids, and how many rungs up on its stream each of them is.
    """

    def __init__(
        self,
        candidates: Candidates,
        cut: Cut,
        costs: Costs,
        copies: Mapping[int, int],
        worth: float,
    ) -> None:
        self._nodes = candidates.view.nodes
        self._recomputed = cut.recomputed
        self._kept = {root.id for root in cut.kept}
        self._costs = costs
        self._copies = copies
        self._worth = worth
        self._climbed: set[int] = set()  # rungs from which further ones are computed
        self.rungs: dict[int, int] = {}
        self._climb()

    def checkpoints(self) -> frozenset[int]:
        """Every m-th rung of m * m that others are computed from."""
        every = max(2, math.isqrt(max(self.rungs.values())))
        return frozenset(i for i in self._climbed if self.rungs[i] % every == 0)

    def _climb(self) -> None:
        most: dict[int, int] = {}  # by node id: copies of what a node is computed from, at most
        below: dict[int, int | None] = {}  # by node id: the highest rung it is computed from
        for node_id in sorted(self._recomputed):
            node, here = self._nodes[node_id], self._copies.get(node_id, 0)
            read = [source.id for source in self._read(node)]
            rungs = [i if i in self.rungs else below[i] for i in read]
            highest = max((i for i in rungs if i is not None), key=self._height, default=None)
            below[node_id] = highest
            most[node_id] = max([here, *(most[i] for i in read)])
            # So many stages want what the node is computed from and not the node; of the layers
            # in between, one after the other, they want half of it on average.
            passed = most[node_id] - here
            saved = min(passed / 2, here)
            keep = sum(self._costs.keep(value) for value in node.outputs)
            if saved and self._costs_at_least(node, self._worth * keep / saved):
                self.rungs[node_id] = 1 if highest is None else 1 + self.rungs[highest]
                most[node_id] = here
                if highest is not None:
                    self._climbed.add(highest)

    def _height(self, node_id: int) -> int:
        return self.rungs[node_id]

    def _read(self, node: Node) -> list[Node]:
        """What has to be computed again for a node, of what it reads."""
        return [
            root.node
            for root in self._costs.reads(node)
            if root.node.id in self._recomputed and root.id not in self._kept
        ]

    def _costs_at_least(self, node: Node, price: float) -> bool:
        """Whether a node, with all it is computed from back to rungs, has at least that price."""
        stack, seen, total = [node], {node.id}, 0.0
        while stack:
            node = stack.pop()
            total += self._costs.recompute(node)
            if total >= price:
                return True
            for source in self._read(node):
                if source.id not in seen and source.id not in self.rungs:
                    seen.add(source.id)
                    stack.append(source)
        return False
