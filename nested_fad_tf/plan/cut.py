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
from collections.abc import Container, Mapping

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.ops import views
from nested_fad_tf.plan import cost
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.storage import Format

SOURCE, SINK = 0, 1
# scipy's flows are 32-bit integers: capacities are scaled so that all of them together stay below
# this, and one that exceeds it is infinite.
_TOTAL = 2**29
_INFINITE = 2**30


@dataclasses.dataclass(frozen=True)
class Span:
    """Stages in a row, before the first of which a piece of the forward pass runs once more.

    What it makes is shared by the stages, and dead after the last of them: the checkpoints of Chen
    et al. (arXiv 1604.06174) are what it reads.

    Attributes:
        first: The cotangent op that starts the first of the stages.
        stages: Ids of the cotangent ops that start the stages.
        recomputed: Ids of the nodes that run once more.
    """

    first: Node
    stages: frozenset[int]
    recomputed: frozenset[int]


@dataclasses.dataclass(frozen=True)
class Cut:
    """A decision for every buffer.

    Attributes:
        kept: Storage roots that are kept.
        recomputed: Ids of nodes that each stage of the backward pass computes again for itself.
        spans: Where stages share what runs once more: see plan/streams.py, and plan/budget.py. What
            spans recompute is neither in `kept` nor in `recomputed`.
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


class Network:
    """Edges of the flow network, in plain lists until they become a sparse matrix."""

    def __init__(self) -> None:
        self.size = 2
        self.tails: list[int] = []
        self.heads: list[int] = []
        self.capacities: list[float] = []

    def node(self) -> int:
        """Adds a node.

        Returns:
            Its number.
        """
        self.size += 1
        return self.size - 1

    def edge(self, tail: int, head: int, capacity: float) -> None:
        """Adds an edge.

        Args:
            tail: Where it starts.
            head: Where it ends.
            capacity: What cutting it costs, in bytes; may be infinite.
        """
        self.tails.append(tail)
        self.heads.append(head)
        self.capacities.append(capacity)

    def sink_side(self) -> np.ndarray:
        """Solves, and tells for each network node whether it lies on the sink's side.

        Of all minimum cuts the one nearest to the sink is taken: it recomputes least.

        Returns:
            For each node number, whether it does.
        """
        capacity = np.array(self.capacities)
        finite = np.isfinite(capacity)
        scale = min(1.0, _TOTAL / max(1.0, capacity[finite].sum()))
        whole = np.full(len(capacity), _INFINITE, dtype=np.int64)
        whole[finite] = np.ceil(capacity[finite] * scale).astype(np.int64)
        shape = (self.size, self.size)
        graph = csr_matrix((whole, (self.tails, self.heads)), shape=shape)
        graph.data = np.minimum(graph.data, _INFINITE)  # parallel edges were added up
        graph = graph.astype(np.int32)
        flow = maximum_flow(graph, SOURCE, SINK, method="dinic").flow
        residual = graph - flow
        residual.data = np.maximum(residual.data, 0)
        residual.eliminate_zeros()
        reaches = breadth_first_order(residual.T.tocsr(), SINK, return_predecessors=False)
        side = np.zeros(self.size, dtype=bool)
        side[reaches] = True
        return side


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


def minimum_cut(
    candidates: Candidates,
    tradeoff: float,
    surcharge: Mapping[int, float] | None = None,
    times: Mapping[int, int] | None = None,
    costs: Costs | None = None,
    checkpoints: Container[int] = (),
) -> Cut:
    """Finds what to keep.

    Args:
        candidates: The buffers and their prices.
        tradeoff: Multiplies the price of recomputing something once. Every further time costs at
            least its price.
        surcharge: Factors on the price of keeping, by storage root's value id; what is alive at the
            peak costs more.
        times: How often a node would have to be recomputed, by node id; once by default.
        costs: Those of the graph, if there are more cuts to come.
        checkpoints: Ids of nodes that aren't to be computed again.

    Returns:
        The cut.
    """
    surcharge, costs = surcharge or {}, costs or Costs(candidates)
    network = Network()
    entry: dict[int, int] = {}  # node id -> its "in" side
    leaving: dict[int, int] = {}  # storage root's value id -> its "out" side
    for node, roots in _reachable(candidates, costs):
        entry[node.id] = inside = network.node()
        for root in roots:
            leaving[root.id] = out = network.node()
            price = costs.keep(root) * surcharge.get(root.id, 1.0)
            network.edge(inside, out, max(1.0, price))
        if node.id in candidates.bans or node.id in checkpoints:
            network.edge(SOURCE, inside, np.inf)
            continue
        again = times.get(node.id, 1) - 1 if times else 0
        factor = tradeoff + again * max(tradeoff, 1.0)
        network.edge(SOURCE, inside, max(1.0, costs.recompute(node) * factor))
        for root in costs.reads(node):
            network.edge(leaving[root.id], inside, np.inf)
    for root_id in candidates.needed:
        network.edge(leaving[root_id], SINK, np.inf)
    if not entry:
        return Cut((), frozenset())
    side = network.sink_side()
    recomputed = frozenset(node_id for node_id, inside in entry.items() if side[inside])
    values = candidates.view.values
    kept = tuple(
        values[root_id]
        for root_id, out in leaving.items()
        if side[out] and not side[entry[values[root_id].node.id]]
    )
    return Cut(kept, recomputed, stored=candidates.stored(kept))


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
