"""A step as a row of slots in which something may run: what `exact_budget` decides about.

The order is fixed. First the forward pass runs, as it was traced. Then come the stages of the
backward pass (plan/stages.py), each with its cotangent ops as they were traced. Before those of a
stage that reads something of the forward pass there is a slot for every op of the forward pass
that this or a later stage could use, in which that op may run again. In a fine timeline every
cotangent op is a stage: that has more and better solutions, and takes much longer to solve.

Only buffers that a plan decides about count, see `Candidates.free`: small ones, arguments,
variables and outputs of the forward pass are there at no price. Views share their buffer.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.plan.budget import relax
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.cut import read_when_recomputed, recompute_price
from nested_fad_tf.plan.schedule import in_place
from nested_fad_tf.plan.stages import Stages

FORWARD = -1


@dataclasses.dataclass(frozen=True)
class Slot:
    """A time at which an op runs, or may run.

    Attributes:
        stage: Number of the stage; `FORWARD` in the forward pass.
        node: The op.
        reads: Buffers of the forward pass that it reads, by value id.
        makes: Buffers of the forward pass that it makes, by value id.
        reuses: Those of `reads` whose memory it takes over if nothing needs them any more.
        must: Whether it has to run: it does in the forward pass, and so do all cotangent ops.
        cotangents: Bytes of cotangents, alive or being made, while it runs.
    """

    stage: int
    node: Node
    reads: tuple[int, ...]
    makes: tuple[int, ...]
    reuses: frozenset[int]
    must: bool
    cotangents: int


@dataclasses.dataclass(frozen=True)
class Timeline:
    """All slots, in order.

    Attributes:
        slots: The slots.
        sizes: Bytes of the buffers of the forward pass, by value id.
        prices: Price of running an op again, by node id; absent if it may not.
        stage_of: Number of the stage of each cotangent op, by node id.
    """

    slots: tuple[Slot, ...]
    sizes: Mapping[int, int]
    prices: Mapping[int, float]
    stage_of: Mapping[int, int]

    @property
    def forward_price(self) -> float:
        """The price of what may run again, each once."""
        return sum(self.prices.values())

    def again(self, runs: Iterable[tuple[int, int]]) -> float:
        """The price of what runs besides one forward pass.

        Args:
            runs: Stage and node id of each run of an op that may run again, first ones included.

        Returns:
            The price.
        """
        return sum(self.prices[i] for _, i in runs) - self.forward_price

    @property
    def grain(self) -> int:
        """What all sums of bytes are multiples of: budgets may be rounded down to one."""
        return math.gcd(*self.sizes.values(), *(s.cotangents for s in self.slots))


def find_timeline(candidates: Candidates, min_bytes: int, *, fine: bool = False) -> Timeline:
    """Finds the slots of a step.

    Args:
        candidates: The buffers of the forward pass.
        min_bytes: Cotangents below this size are left out, as other small buffers are.
        fine: Whether every cotangent op is a stage of its own.

    Returns:
        Its timeline.
    """
    return _Finder(relax(candidates), min_bytes, fine).find()


class _Finder:
    def __init__(self, candidates: Candidates, min_bytes: int, fine: bool) -> None:
        self._fine = fine
        self._candidates = candidates
        self._min_bytes = min_bytes
        self._view = candidates.view
        self._cotangent = candidates.roles.cotangent
        self._forward = [
            n
            for n in self._view.nodes
            if self._view.live[n.id]
            and not self._cotangent[n.id]
            and (self._makes(n) or (self._reads(n) and not _only_views(n)))
        ]

        self._for_results = self._needed_for_results()

    def find(self) -> Timeline:
        stages = self._stages()
        ordered = [node for stage in stages for node in stage]
        memory, after = self._cotangent_memory(ordered)
        slots = [self._slot(FORWARD, n, self._must(n), 0, self._reads(n)) for n in self._forward]
        alive = 0
        for number, stage in enumerate(stages):
            if any(self._reads(n) for n in stage):
                useful = self._useful(stages[number:])
                slots += [
                    self._slot(number, n, False, alive, self._reads(n))
                    for n in self._forward
                    if n.id in useful
                ]
            for node in stage:
                slots.append(self._slot(number, node, True, memory[node.id], self._reads(node)))
                alive = after[node.id]
        nodes = {s.node.id: s.node for s in slots if s.makes and self._may_run_again(s.node)}
        prices = {i: recompute_price(self._candidates, n) for i, n in nodes.items()}
        values = self._view.values
        sizes = {i: values[i].nbytes for s in slots for i in (*s.reads, *s.makes)}
        stage_of = {n.id: number for number, stage in enumerate(stages) for n in stage}
        return Timeline(tuple(slots), sizes, prices, stage_of)

    def _stages(self) -> list[list[Node]]:
        """The cotangent ops in order: those of a stage together."""
        of = Stages(self._candidates).of
        live = [n for n in self._view.nodes if self._cotangent[n.id] and self._view.live[n.id]]
        rows: dict[int, list[Node]] = {}
        for node in live:
            rows.setdefault(of.get(node.id, node).id, []).append(node)
        ordered = [rows[i] for i in sorted(rows)]
        return [[node] for row in ordered for node in row] if self._fine else ordered

    def _slot(
        self, stage: int, node: Node, must: bool, cotangents: int, reads: Sequence[Value]
    ) -> Slot:
        makes = () if self._cotangent[node.id] else self._makes(node)
        reuses: frozenset[int] = frozenset()
        if node.outputs and in_place(node) is node.outputs[0]:
            size = node.outputs[0].nbytes
            reuses = frozenset(v.id for v in reads if v.nbytes == size)
        ids = tuple(v.id for v in reads)
        return Slot(stage, node, ids, tuple(v.id for v in makes), reuses, must, cotangents)

    def _makes(self, node: Node) -> list[Value]:
        free = self._candidates.free
        return [v for v in node.outputs if v.storage is v and not free[v.id]]

    def _reads(self, node: Node) -> list[Value]:
        roots = read_when_recomputed(self._candidates, node)
        return [r for r in roots if not self._cotangent[r.node.id]]

    def _may_run_again(self, node: Node) -> bool:
        return node.id not in self._candidates.bans

    def _must(self, node: Node) -> bool:
        """Whether an op has to run in the forward pass: derivative factors may run later."""
        optional = self._makes(node) and self._may_run_again(node)
        return not optional or node.id in self._for_results

    def _needed_for_results(self) -> frozenset[int]:
        """Ids of the ops without which the forward pass would have other results or effects."""
        view, seen = self._view, set()
        stack = [v.node for v in view.outputs]
        stack += [n for n in view.nodes if view.live[n.id] and n.stateful]
        while stack:
            node = stack.pop()
            if node.id not in seen and not self._cotangent[node.id]:
                seen.add(node.id)
                stack += [*(v.node for v in node.inputs), *node.controls]
        return frozenset(seen)

    def _useful(self, stages: Sequence[Sequence[Node]]) -> frozenset[int]:
        """Ids of the ops from which what some stages read can be computed again."""
        stack = [r for stage in stages for node in stage for r in self._reads(node)]
        seen: set[int] = set()
        while stack:
            node = stack.pop().node
            if node.id not in seen and self._may_run_again(node):
                seen.add(node.id)
                stack += self._reads(node)
        return frozenset(seen)

    def _cotangent_memory(self, ordered: Sequence[Node]) -> tuple[dict[int, int], dict[int, int]]:
        """Bytes of cotangents while each of the ops runs, and after it, by node id."""
        last = {v.storage.id: n.id for n in ordered for v in n.inputs}
        returned = {v.storage.id for v in self._view.outputs}
        alive: dict[int, int] = {}
        during, after = {}, {}
        for node in ordered:
            made = [v for v in node.outputs if v.storage is v and v.nbytes >= self._min_bytes]
            dying = {
                v.storage.id
                for v in node.inputs
                if v.storage.id in alive
                and last[v.storage.id] == node.id
                and v.storage.id not in returned
            }
            before = sum(alive.values())
            total = before + sum(v.nbytes for v in made)
            reuses = made and in_place(node) is node.outputs[0]
            if reuses and made[0].nbytes in (alive[i] for i in dying):
                total -= made[0].nbytes
            during[node.id] = total
            alive |= {v.id: v.nbytes for v in made}
            for gone in dying | {v.id for v in made if v.id not in last and v.id not in returned}:
                del alive[gone]
            after[node.id] = sum(alive.values())
        return during, after


def _only_views(node: Node) -> bool:
    return bool(node.outputs) and all(v.storage is not v for v in node.outputs)
