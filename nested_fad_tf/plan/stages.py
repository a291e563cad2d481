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

import dataclasses
import functools
import operator
from collections.abc import Callable, Container, Iterator, Mapping, Sequence

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.graph.view import ancestors
from nested_fad_tf.ops import elementwise, views
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.cut import Cut, Span

_VIEWS = views.ALIASES | views.PAIRWISE_ALIASES


class Stages:
    """The stages of a graph; they don't depend on what is kept.

    Attributes:
        of: The cotangent op that starts the stage of each reader, by the reader's node id, in
            execution order. A gradient's start, made from forward values, has none: it reads the
            originals.
        anchors: By a cotangent op's node id: the stage that has begun when its result is there.
        ends: By a stage's node id: what its readers make of it. The next stage waits for these.
        in_order: The stages, in the order in which they are traced and run.
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
        self.in_order = sorted({stage.id: stage for stage in self.of.values()}.values(), key=_id)
        self._number = {stage.id: i for i, stage in enumerate(self.in_order)}
        self._read = self._read_by_stages()

    @functools.cached_property
    def aside(self) -> Sequence[Node]:
        """What makes something of large values in the forward pass that no late op depends on.

        Such as a loss, or a metric. The first stage waits for these: the executor is free to leave
        them, with what they read, for the end. Ops that only work element by element aren't among
        them: others read what they make, and they may be fused.
        """
        view, late = self._candidates.view, self._candidates.late
        leads = ancestors((n for n in view.nodes if late[n.id]), *view.edges())
        return [
            node
            for node in view.nodes
            if view.live[node.id]
            and not (leads[node.id] or node.stateful or _passes_through(node))
            and node.op_type not in views.SHAPE_ONLY
            and not all(map(self._candidates.is_free, node.inputs))
        ]

    def copies(self, cut: Cut) -> Mapping[int, int]:
        """Counts how often a cut computes each node again.

        Args:
            cut: What is kept and what is recomputed.

        Returns:
            The number of copies by node id; mere views count as none.
        """
        return {node_id: by.bit_count() for node_id, by in self._copying(cut).items()}

    def copying(self, cut: Cut, node_ids: Container[int]) -> Mapping[int, Sequence[Node]]:
        """Tells which stages compute nodes again.

        Args:
            cut: What is kept and what is recomputed.
            node_ids: Ids of the nodes in question.

        Returns:
            The stages in order, by node id, of a span the first; there are none of mere views.
        """
        stages = [*self.in_order, *(span.first for span in cut.spans)]
        return {
            node_id: sorted((stages[i] for i in _bits(by)), key=_id)
            for node_id, by in self._copying(cut).items()
            if node_id in node_ids
        }

    def without_idle_spans(self, cut: Cut) -> Cut:
        """Leaves out spans that have nothing to make.

        Args:
            cut: What is kept and what is recomputed.

        Returns:
            The same without them.
        """
        by = functools.reduce(operator.or_, self._copying(cut).values(), 0) >> len(self.in_order)
        left: dict[Span | None, Span | None] = {None: None}
        for index, span in enumerate(cut.spans):
            outer = left[span.outer]
            left[span] = dataclasses.replace(span, outer=outer) if by >> index & 1 else outer
        spans = tuple(dict.fromkeys(span for span in left.values() if span is not None))
        return dataclasses.replace(cut, spans=spans)

    def readers_of(self, cut: Cut) -> Mapping[int, Sequence[Node]]:
        """Tells in which stages what a cut keeps is read, to copy something or by a cotangent.

        Args:
            cut: What is kept and what is recomputed, without spans.

        Returns:
            By the id of each kept storage root that is read at all: its stages, in order.
        """
        kept = {root.id for root in cut.kept}
        read: dict[int, int] = {}
        needs_copy, packed = copy_test(cut), cut.stored
        values = self._candidates.view.values

        def reads(value: Value, by: int) -> None:
            if value.storage.id in kept and not needs_copy(value):
                read[value.storage.id] = read.get(value.storage.id, 0) | by

        for value_id, by in self._wanted(cut).items():
            for source in read_by_copy(values[value_id], packed):
                reads(source, by)
        for value_id, by in self._read.items():
            reads(values[value_id], by)
        return {root: [self.in_order[i] for i in _bits(by)] for root, by in read.items()}

    def _read_by_stages(self) -> dict[int, int]:
        """By id of a forward value: the stages that read it, as bits; not where a mask will do."""
        nodes, masked = self._candidates.view.nodes, self._candidates.masked
        cotangent = self._candidates.roles.cotangent
        read: dict[int, int] = {}
        for node_id, stage in self.of.items():
            by = 1 << self._number[stage.id]
            for index, value in enumerate(nodes[node_id].inputs):
                forward = not cotangent[value.storage.node.id]
                if forward and (node_id, index) not in masked:
                    read[value.id] = read.get(value.id, 0) | by
        return read

    def _copying(self, cut: Cut) -> dict[int, int]:
        """By node id: the stages and spans that compute a node again, as bits of a number."""
        values, packed = self._candidates.view.values, cut.stored
        found: dict[int, int] = {}
        for value_id, by in self._wanted(cut).items():
            node = values[value_id].node
            if value_id not in packed and node.op_type not in _VIEWS:
                found[node.id] = found.get(node.id, 0) | by
        return found

    def _wanted(self, cut: Cut) -> dict[int, int]:
        """By value id: the stages that want a copy of a value, then the spans, as bits."""
        needs_copy, packed = copy_test(cut), cut.stored
        shared = _Shared(cut, self._number)
        wanted: dict[int, int] = {}

        def want(value: Value, by: int) -> None:
            by = by if needs_copy(value) else shared.spans_for(value, by)
            if by:
                wanted[value.id] = wanted.get(value.id, 0) | by

        values = self._candidates.view.values
        for value_id, by in self._read.items():
            want(values[value_id], by)
        for value in reversed(values):
            if value.id in wanted:
                for source in read_by_copy(value, packed):
                    want(source, wanted[value.id])
        return wanted


class _Shared:
    """What spans compute for all their stages.

    Args:
        cut: The cut.
        number: Of each stage, by its node id; spans come behind them.
    """

    def __init__(self, cut: Cut, number: Mapping[int, int]) -> None:
        self._kept = frozenset(root.id for root in cut.kept)
        # By node id, innermost first: who may read a span's copies, and the span's own bit.
        self._by: dict[int, list[tuple[int, int]]] = {}
        within: dict[Span | None, int] = {}
        for index, span in reversed(list(enumerate(cut.spans, len(number)))):
            own = 1 << index
            spans = own | within.get(span, 0)
            within[span.outer] = within.get(span.outer, 0) | spans
            readers = sum(1 << number[id] for id in span.stages) | spans
            for node_id in span.recomputed:
                self._by.setdefault(node_id, []).append((readers, own))

    def spans_for(self, value: Value, by: int) -> int:
        """The spans whose copy of a value stages and spans read, as bits."""
        root = value.storage
        if root.id in self._kept:
            return 0
        wanted = 0
        for readers, span in self._by.get(root.node.id, ()):
            if readers & by:
                wanted |= span
                by &= ~readers
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


def _bits(number: int) -> Iterator[int]:
    """The positions of the ones in a binary number, from the lowest."""
    while number:
        lowest = number & -number
        yield lowest.bit_length() - 1
        number ^= lowest


def _passes_through(node: Node) -> bool:
    """Whether a cotangent op only works element by element on what it gets."""
    return node.op_type in elementwise.TABLE or node.op_type in views.ALIASES
