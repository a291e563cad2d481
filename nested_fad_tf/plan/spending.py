"""Spends what a plan leaves of a budget: some of what spans make is kept after all.

Spans divide the backward pass coarsely, so that a plan may need much less than it is allowed to.
Whatever is kept as well spares the spans the work of making it, and all that they would make for it
alone. What spares most for its size comes first, as long as the estimated peak is within the
budget. As more is kept, gains mostly fall: an old one is taken to bound a new one, and what spares
nothing is not asked again (lazy greedy, Minoux 1978). A simulation decides how many of these steps
are taken.
"""

from __future__ import annotations

import bisect
import dataclasses
import heapq
from collections.abc import Mapping

import numpy as np

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.options import Options
from nested_fad_tf.plan.attempt import Attempt, attempt
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.cut import Costs, Cut
from nested_fad_tf.plan.estimate import Estimator
from nested_fad_tf.plan.stages import Stages

# How many tensors are looked at, those first that are dearest to make for their size.
_MOST = 64


class Spending:
    """What may be kept besides, in the plans of a graph.

    Args:
        candidates: The buffers of the forward pass.
        stages: Their stages.
        costs: The prices of running nodes again.
        options: How groups are to run.
    """

    def __init__(
        self, candidates: Candidates, stages: Stages, costs: Costs, options: Options
    ) -> None:
        self._candidates = candidates
        self._stages = stages
        self._costs = costs
        self._options = options

    def spend(self, start: Attempt, limit: float) -> Attempt:
        """Keeps more, as long as the peak is within a limit.

        Args:
            start: A plan with spans, within the limit.
            limit: The limit in bytes.

        Returns:
            The plan that spares most of those tried; `start` if there is none.
        """
        price = self._price(start.cut)
        steps = self._steps(start, price, limit)
        tried: dict[int, Attempt] = {}

        def above(count: int) -> bool:
            cut, left = steps[count - 1]
            cut = self._stages.without_idle_spans(cut)
            seconds = start.seconds - (price - left)
            tried[count] = attempt(self._candidates, self._stages, cut, seconds, self._options)
            return tried[count].peak > limit

        if not steps or not above(len(steps)):
            return tried.get(len(steps), start)
        taken = bisect.bisect_left(range(1, len(steps)), True, key=above)
        return tried[taken] if taken else start

    def _steps(self, start: Attempt, price: float, limit: float) -> list[tuple[Cut, float]]:
        """The cut of a plan, and its price, with one more tensor kept, with two more, and so on."""
        cut, steps = start.cut, list[tuple[Cut, float]]()
        estimator = Estimator(self._candidates.view, start.lifetimes)
        until, added = self._last_made(cut), dict[int, Node]()
        # What keeping it spares for its size, negative, and how many were kept when that was found.
        queue = [(-np.inf, root.id, -1) for root in self._made(until)]
        while queue:
            gain, root_id, known = heapq.heappop(queue)
            root = self._candidates.view.values[root_id]
            stage = until[root.node.id]
            if estimator.peak({}, {**added, root_id: stage}) > limit:
                continue
            other = self._with(cut, root)
            if known < len(steps):
                spared = price - self._price(other)
                if spared > 0:
                    heapq.heappush(queue, (-spared / root.nbytes, root_id, len(steps)))
                continue
            cut, price = other, price + gain * root.nbytes
            added[root_id] = stage
            steps.append((cut, price))
        return steps

    def _price(self, cut: Cut) -> float:
        return self._costs.copies(self._stages.copies(cut))

    def _with(self, cut: Cut, root: Value) -> Cut:
        """A cut that keeps one more buffer."""
        kept = tuple(sorted((*cut.kept, root), key=lambda v: v.id))
        return dataclasses.replace(cut, kept=kept, stored=self._candidates.stored(kept))

    def _last_made(self, cut: Cut) -> Mapping[int, Node]:
        """Of each node that spans run again, the last stage that this is for."""
        own = frozenset().union(*(span.recomputed for span in cut.spans))
        return {i: by[-1] for i, by in self._stages.copying(cut, own).items()}

    def _made(self, node_ids: Mapping[int, Node]) -> list[Value]:
        """What nodes make that could be kept: the most promising, in the order of their ids."""
        nodes, free = self._candidates.view.nodes, self._candidates.free
        made = [v for i in node_ids for v in nodes[i].outputs if v.storage is v and not free[v.id]]

        def price(root: Value) -> float:
            steps = [root.node, *(v.storage.node for v in root.node.inputs)]
            return sum(self._costs.recompute(n) for n in steps if n.id in node_ids) / root.nbytes

        promising = heapq.nlargest(_MOST, made, key=price)
        return sorted(promising, key=lambda v: v.id)
