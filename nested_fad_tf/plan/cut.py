"""The minimum cut that decides what is kept for the backward pass.

Every forward buffer is a node split in two, joined by an edge whose capacity is the bytes it takes
to keep it. Data dependences are edges of infinite capacity; the source feeds what can't be computed
again, the sink takes what cotangent ops read. A cut then separates what the backward pass can get
at (kept) from what it computes again, and its capacity is the memory kept plus the price of
recomputing: an edge from the source to each node, cut when the node falls on the sink's side.

The construction follows the min-cut partitioners of functional AD compilers; nested forward AD,
recomputation and output-saving are three cuts of the one network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.ops import views
from nested_fad_tf.plan import cost
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.network import SINK, SOURCE, Network
from nested_fad_tf.plan.storage import Format


@dataclasses.dataclass(frozen=True)
class Span:
    """Stages in a row, before the first of which a piece of the forward pass runs once more.

    What it makes is shared by the stages, and dead after the last of them: the checkpoints of Chen
    et al. (arXiv 1604.06174) are what it reads. A span within another reads what that one makes.

    Attributes:
        first: The cotangent op that starts the first of the stages.
        stages: Ids of the cotangent ops that start the stages.
        recomputed: Ids of the nodes that run once more.
        outer: The span within which it lies, with all its stages but not the first of them.
    """

    first: Node
    stages: frozenset[int]
    recomputed: frozenset[int]
    outer: Span | None = None


@dataclasses.dataclass(frozen=True)
class Cut:
    """A decision for every buffer.

    Attributes:
        kept: Storage roots that are kept.
        recomputed: Ids of nodes that each stage of the backward pass computes again for itself.
        spans: Where stages share what runs once more: see plan/streams.py, and plan/budget.py. What
            spans recompute is neither in `kept` nor in `recomputed`. Those within another come
            behind it.
        stored: By value id: how those of `kept` are stored that aren't kept as they are.
    """

    kept: tuple[Value, ...]
    recomputed: frozenset[int]
    spans: tuple[Span, ...] = ()
    stored: Mapping[int, Format] = dataclasses.field(default_factory=dict)

    @property
    def unshared(self) -> Cut:
        """The cut in which each stage computes for itself what spans made for it."""
        again = self.recomputed.union(*(span.recomputed for span in self.spans))
        return dataclasses.replace(self, recomputed=again, spans=())


class Costs:
    """What cuts are decided by, looked up once for all cuts of the same graph.

    Args:
        candidates: The buffers and their prices; which of them are needed doesn't matter.
    """

    def __init__(self, candidates: Candidates) -> None:
        self._candidates = candidates
        self._recompute: dict[int, float] = {}  # by node id
        self._reads: dict[int, list[Value]] = {}  # by node id
        self._keep: dict[int, float] = {}  # by storage root's value id

    def recompute(self, node: Node) -> float:
        """The price of computing a node again: see `recompute_price`."""
        if node.id not in self._recompute:
            self._recompute[node.id] = recompute_price(self._candidates, node)
        return self._recompute[node.id]

    def copies(self, count: Mapping[int, int]) -> float:
        """The price of computing nodes again, by node id as often as that."""
        nodes = self._candidates.view.nodes
        return sum(times * self.recompute(nodes[i]) for i, times in count.items())

    def reads(self, node: Node) -> list[Value]:
        """What has to be decided about then: see `read_when_recomputed`."""
        if node.id not in self._reads:
            self._reads[node.id] = read_when_recomputed(self._candidates, node)
        return self._reads[node.id]

    def keep(self, root: Value) -> float:
        """The price of keeping a buffer."""
        if root.id not in self._keep:
            self._keep[root.id] = _keep_price(self._candidates, root)
        return self._keep[root.id]


class Cuts:
    """The minimum cuts of a graph: the network is built once for all of them.

    Args:
        candidates: The buffers and their prices.
        costs: Those of the graph, if they are at hand.

    Attributes:
        candidates: The buffers.
    """

    def __init__(self, candidates: Candidates, costs: Costs | None = None) -> None:
        self.candidates = candidates
        costs = costs or Costs(candidates)
        self._network = network = Network()
        self._entry: dict[int, int] = {}  # node id -> its "in" side
        self._leaving: dict[int, int] = {}  # storage root's value id -> its "out" side
        self._again: dict[int, int] = {}  # node id -> the edge that is cut if it is recomputed
        self._keep: dict[int, int] = {}  # storage root's value id -> that if it is kept
        for node, roots in _reachable(candidates, costs):
            self._entry[node.id] = inside = network.node()
            for root in roots:
                self._leaving[root.id] = out = network.node()
                self._keep[root.id] = network.edge(inside, out, costs.keep(root))
            banned = node.id in candidates.bans
            price = np.inf if banned else costs.recompute(node)
            self._again[node.id] = network.edge(SOURCE, inside, price)
            if not banned:
                for root in costs.reads(node):
                    network.edge(self._leaving[root.id], inside, np.inf)
        # Whether a buffer is needed may differ from cut to cut.
        self._needed = {
            root_id: network.edge(out, SINK, 0.0) for root_id, out in self._leaving.items()
        }
        self._capacities = network.capacities()
        self._keep_edges = np.array(list(self._keep.values()), int)
        # Those of what may be computed again, and where they are among all of `_again`.
        again = np.array(list(self._again.values()), int)
        self._free = np.flatnonzero(np.isfinite(self._capacities[again]))
        self._free_edges = again[self._free]

    def minimum(
        self,
        tradeoff: float,
        surcharge: Mapping[int, float] | None = None,
        times: Mapping[int, int] | None = None,
        checkpoints: Iterable[int] = (),
        needed: Iterable[int] | None = None,
    ) -> Cut:
        """Finds what to keep.

        Args:
            tradeoff: Multiplies the price of recomputing something once. Every further time costs
                at least its price.
            surcharge: Factors on the price of keeping, by storage root's value id; what is alive at
                the peak costs more.
            times: How often a node would have to be recomputed, by node id; once by default.
            checkpoints: Ids of nodes that aren't to be computed again.
            needed: Ids of the storage roots that are needed; by default those that `candidates`
                tells. Others have to be among what those are computed from.

        Returns:
            The cut.
        """
        if not self._entry:
            return Cut((), frozenset())
        capacities = self._capacities.copy()
        prices = capacities[self._free_edges] * self._factors(tradeoff, times)[self._free]
        capacities[self._free_edges] = np.maximum(1.0, prices)
        capacities[[self._again[i] for i in checkpoints if i in self._again]] = np.inf
        for root_id, factor in (surcharge or {}).items():
            if root_id in self._keep:
                capacities[self._keep[root_id]] *= factor
        capacities[self._keep_edges] = np.maximum(1.0, capacities[self._keep_edges])
        wanted = self.candidates.needed if needed is None else needed
        capacities[[self._needed[root_id] for root_id in wanted]] = np.inf
        return self._cut(self._network.sink_side(capacities))

    def _factors(self, tradeoff: float, times: Mapping[int, int] | None) -> np.ndarray:
        """What the price of recomputing each node is multiplied by."""
        factors = np.full(len(self._again), float(tradeoff))
        if times:
            further = [times.get(node_id, 1) - 1 for node_id in self._again]
            factors += np.array(further) * max(tradeoff, 1.0)
        return factors

    def _cut(self, side: np.ndarray) -> Cut:
        """The cut, by which nodes of the network lie on the sink's side."""
        recomputed = frozenset(i for i, inside in self._entry.items() if side[inside])
        values = self.candidates.view.values
        kept = tuple(
            values[root_id]
            for root_id, out in self._leaving.items()
            if side[out] and not side[self._entry[values[root_id].node.id]]
        )
        return Cut(kept, recomputed, stored=self.candidates.stored(kept))


def minimum_cut(
    candidates: Candidates,
    tradeoff: float,
    surcharge: Mapping[int, float] | None = None,
    times: Mapping[int, int] | None = None,
    checkpoints: Iterable[int] = (),
) -> Cut:
    """Finds what to keep, once; for more cuts of a graph see `Cuts`.

    Args:
        candidates: The buffers and their prices.
        tradeoff: See `Cuts.minimum`, as for the others.
        surcharge: Factors on the price of keeping.
        times: How often nodes would have to be recomputed.
        checkpoints: Ids of nodes that aren't to be computed again.

    Returns:
        The cut.
    """
    return Cuts(candidates).minimum(tradeoff, surcharge, times, checkpoints)


def recompute_price(candidates: Candidates, node: Node) -> float:
    """The price of computing a node again.

    Args:
        candidates: The buffers and their prices.
        node: A node with outputs.

    Returns:
        The price in bytes, computed from the largest output.
    """
    largest = max(node.outputs, key=lambda v: v.nbytes)
    return cost.recompute_price(node, largest, candidates.fused, candidates.prices)


def _keep_price(candidates: Candidates, root: Value) -> float:
    readers = [reader for reader, _ in candidates.view.consumers[root.id]]
    forward = [reader for reader in readers if not candidates.roles.cotangent[reader.id]]
    format, stored = candidates.formats.get(root.id), candidates.stored_bytes(root)
    passes = format.passes if format is not None else 0
    return cost.keep_price(root, stored, passes, candidates.fused, forward, candidates.prices)


def read_when_recomputed(candidates: Candidates, node: Node) -> list[Value]:
    """The buffers that have to be decided about if a node is computed again.

    Args:
        candidates: The buffers.
        node: A node that may be recomputed.

    Returns:
        Storage roots of its inputs without those that are free.
    """
    if node.op_type in views.SHAPE_ONLY:
        return []
    roots = {v.storage.id: v.storage for v in node.inputs}
    return [r for r in roots.values() if not candidates.free[r.id]]


def _reachable(candidates: Candidates, costs: Costs) -> list[tuple[Node, list[Value]]]:
    """Nodes from which what is needed can be computed, in order, with their buffers."""
    values = candidates.view.values
    wanted: dict[int, list[Value]] = {}
    stack = [values[root_id] for root_id in candidates.needed]
    seen = {v.id for v in stack}
    while stack:
        root = stack.pop()
        wanted.setdefault(root.node.id, []).append(root)
        if root.node.id in candidates.bans:
            continue
        for other in costs.reads(root.node):
            if other.id not in seen:
                seen.add(other.id)
                stack.append(other)
    nodes = candidates.view.nodes
    return [(nodes[node_id], wanted[node_id]) for node_id in sorted(wanted)]
