"""When the backward pass computes something again: stages, each started by one cotangent.

For element-wise readers a stage is the last cotangent of their region that isn't made element-wise
(by a matrix product, a reduction), so that they share copies and can be fused with them; for all
other readers it is the cotangent they read. Cotangents that are made of constants alone are there
from the beginning, such as the zeros for results that a loss doesn't depend on: where there are
others they start no stage. Readers in different stages get copies of their own: to
share them would keep them alive in between, which is what the cut decided against.

How often a cut computes each node again is therefore known before a copy is made: it is the number
of stages that its copies reach.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.ops import elementwise, views
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.cut import Cut


class Stages:
    """The stages of a graph; they don't depend on what is kept.

    Attributes:
        of: The cotangent op that starts the stage of each reader, by the reader's node id, in
            execution order. A gradient's start, made from forward values, has none: it reads the
            originals.
        anchors: By a cotangent op's node id: the stage that has begun when its result is there.
        ends: By a stage's node id: what its readers make of it. The next stage waits for these.
    """

    def __init__(self, candidates: Candidates) -> None:
        """Finds the stage of every cotangent op that runs."""
        self._candidates = candidates
        self.of: dict[int, Node] = {}
        self.ends: dict[int, list[Node]] = {}
        self.anchors: dict[int, Node] = {}
        cotangent, live = candidates.roles.cotangent, candidates.view.live
        constant = candidates.view.made_of_constants
        for node in candidates.view.nodes:
            if not (cotangent[node.id] and live[node.id]):  # to wait for dead code would revive it
                continue
            incoming = [v for v in node.inputs if cotangent[v.node.id]]
            if not incoming:
                self.anchors[node.id] = node
                continue
            incoming = [v for v in incoming if v.node.id not in constant] or incoming
            through = _passes_through(node) and not all(map(candidates.is_free, incoming))
            sources = (self.anchors[v.node.id] if through else v.node for v in incoming)
            stage = max(sources, key=_id)
            self.anchors[node.id] = stage if through else node
            self.of[node.id] = stage
            # A collective or an assignment may wait for others; what runs locally is what to wait
            # for.
            if not (_passes_through(node) or node.stateful):
                self.ends.setdefault(stage.id, []).append(node)

    def copies(self, cut: Cut) -> Mapping[int, int]:
        """Counts how often a cut computes each node again.

        Args:
            cut: What is kept and what is recomputed.

        Returns:
            The number of copies by node id; mere views count as none.
        """
        packed = cut.stored
        times: dict[int, int] = {}
        wanted = self._wanted(cut)
        for node in self._candidates.view.nodes:
            by_node = 0
            for value in node.outputs:
                if value.id not in packed:
                    by_node |= wanted.get(value.id, 0)
            if by_node and node.op_type not in views.ALIASES | views.PAIRWISE_ALIASES:
                times[node.id] = by_node.bit_count()
        return times

    def readers_of(self, cut: Cut) -> Mapping[int, Sequence[Node]]:
        """Tells in which stages what a cut keeps is read, to copy something or by a cotangent.

        Args:
            cut: What is kept and what is recomputed.

        Returns:
            By the id of each kept storage root that is read at all: its stages, in order.
        """
        kept = {root.id for root in cut.kept}
        stages = self.in_order()
        read: dict[int, int] = {}
        needs_copy, packed = copy_test(cut), cut.stored
        values = self._candidates.view.values

        def reads(value: Value, by: int) -> None:
            if value.storage.id in kept and not needs_copy(value):
                read[value.storage.id] = read.get(value.storage.id, 0) | by

        for value_id, by in self._wanted(cut).items():
            for source in read_by_copy(values[value_id], packed):
                reads(source, by)
        number = {stage.id: i for i, stage in enumerate(stages)}
        for node_id, stage in self.of.items():
            for value in self._decided(node_id):
                reads(value, 1 << number[stage.id])
        return {
            root: [stage for i, stage in enumerate(stages) if by >> i & 1]
            for root, by in read.items()
        }

    def in_order(self) -> list[Node]:
        """The stages, in the order in which they are traced and run."""
        return sorted({stage.id: stage for stage in self.of.values()}.values(), key=_id)

    def _decided(self, node_id: int) -> Sequence[Value]:
        """What a node reads that a cut decides about."""
        inputs, masked = self._candidates.view.nodes[node_id].inputs, self._candidates.masked
        return [value for i, value in enumerate(inputs) if (node_id, i) not in masked]

    def _wanted(self, cut: Cut) -> dict[int, int]:
        """By value id: the stages that want a copy of a value, as bits of a number."""
        needs_copy, packed = copy_test(cut), cut.stored
        number = {stage.id: i for i, stage in enumerate(self.in_order())}
        wanted: dict[int, int] = {}
        nodes = self._candidates.view.nodes
        for node_id, stage in self.of.items():
            for value in self._decided(node_id):
                if needs_copy(value):
                    wanted[value.id] = wanted.get(value.id, 0) | 1 << number[stage.id]
        for node in reversed(nodes):
            for value in node.outputs:
                stages = wanted.get(value.id)
                if stages is None:
                    continue
                for source in read_by_copy(value, packed):
                    if needs_copy(source):
                        wanted[source.id] = wanted.get(source.id, 0) | stages
        return wanted


def copy_test(cut: Cut) -> Callable[[Value], bool]:
    """Tells what the backward pass can't read as it is.

    Args:
        cut: The cut.

    Returns:
        A function of a forward value: whether it is recomputed, or unpacked.
    """
    packed = cut.stored
    kept = frozenset(root.id for root in cut.kept) - packed.keys()

    def needs_copy(value: Value) -> bool:
        root = value.storage
        return root.id in packed or (root.node.id in cut.recomputed and root.id not in kept)

    return needs_copy


def read_by_copy(value: Value, packed: Container[int]) -> Sequence[Value]:
    """The values that a copy of a value is computed from.

    Args:
        value: What is copied.
        packed: Ids of values that are unpacked instead.

    Returns:
        Inputs of its node.
    """
    if value.id in packed or value.node.op_type in views.SHAPE_ONLY:
        return ()
    if value.node.op_type in views.PAIRWISE_ALIASES:
        return (value.node.inputs[value.index],)
    return value.node.inputs


def _id(node: Node) -> int:
    return node.id


def _passes_through(node: Node) -> bool:
    """Whether a cotangent op only works element by element on what it gets."""
    return node.op_type in elementwise.TABLE or node.op_type in views.ALIASES
