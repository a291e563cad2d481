"""Rows of stages of the backward pass, and what runs again for each: single spans, or nested ones.

A span starts from what is kept for it. Within it may lie others: while it runs it leaves behind
what they start from, which is then held for a part of the backward pass alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.plan.cut import Cut, Cuts, Span

# Into how many spans the backward pass is divided.
COUNTS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
# Into how many spans within it a span may be divided.
_INNER = (2, 3, 4, 6)
# What a span's time costs where its checkpoints are chosen, as multiples of the price of
# plan/cost.py. The cheaper, the further a span reaches back to find a narrow place.
_PRICES = (1.0, 0.1, 0.01)


@dataclasses.dataclass(frozen=True)
class Piece:
    """What runs again for a row of stages.

    Attributes:
        spans: The span of all the stages, then those within it.
        kept: What it starts from.
        held: What spans within it start from, if that isn't kept: each from the stage on before
            which the first span makes it, to the one that it is for.
        price: The price of running it.
    """

    spans: tuple[Span, ...]
    kept: tuple[Value, ...]
    price: float
    held: tuple[tuple[Value, Node, Node], ...] = ()

    @property
    def first(self) -> Node:
        """The first stage."""
        return self.spans[0].first

    @property
    def stages(self) -> frozenset[int]:
        """Ids of all stages."""
        return self.spans[0].stages

    @property
    def recomputed(self) -> frozenset[int]:
        """Ids of the nodes that run again."""
        return frozenset().union(*(span.recomputed for span in self.spans))


class Divisions:
    """Divides the stages into rows.

    Args:
        cuts: Those of the graph, with what a budget lets run again.
        stages: The stages in order.
        readers: By the ids of storage roots, the stages that read them, in order.
        prices: By the ids of nodes what it takes to run them.
        checkpoints: What spans may start from as if it were kept anyway, as one more way.
    """

    def __init__(
        self,
        cuts: Cuts,
        stages: Sequence[Node],
        readers: Mapping[int, Sequence[Node]],
        prices: Mapping[int, float],
        checkpoints: Sequence[Value],
    ) -> None:
        self._values = cuts.candidates.view.values
        self._cuts = cuts
        self._stages = stages
        self._readers = readers
        self._prices = prices
        self._checkpoints = checkpoints
        self._made: dict[tuple[int, float], dict[int, Piece]] = {}

    def ways(self, count: int) -> Iterator[list[Piece]]:
        """Tells what to keep for rows of stages, in several ways.

        Args:
            count: How many rows there are to be.

        Yields:
            The pieces of all rows, those of the last layers first.
        """
        for price in _PRICES:
            yield list(self._flat(count, price).values())
        if self._checkpoints:
            parts, there = self._divided(count), (v.id for v in self._checkpoints)
            yield list(self._pieces(parts, 1.0, dict.fromkeys(there, 0.0)).values())
        for inner in _INNER:
            if count * inner in COUNTS:
                for price in _PRICES:
                    yield self._nested(count, inner, price)

    def _flat(self, count: int, price: float) -> dict[int, Piece]:
        """Rows of stages, each with one span, by number."""
        if (count, price) not in self._made:
            self._made[count, price] = self._pieces(self._divided(count), price, {})
        return self._made[count, price]

    def _divided(self, count: int) -> dict[int, list[Node]]:
        """The stages in rows that read equally many bytes first, by number; some may be empty."""
        weights = dict.fromkeys((s.id for s in self._stages), 0)
        for root, readers in self._readers.items():
            weights[readers[0].id] += self._values[root].nbytes
        total, so_far = max(1, sum(weights.values())), 0
        rows: dict[int, list[Node]] = {}
        for stage in self._stages:
            so_far += weights[stage.id]
            # One that reads nothing first belongs to the stage before: they read the same.
            rows.setdefault(max(0, so_far - 1) * count // total, []).append(stage)
        return rows

    def _nested(self, count: int, inner: int, price: float) -> list[Piece]:
        """Rows of stages, each with a span in which others lie."""
        parts: dict[int, list[Piece]] = {}
        for number, piece in self._flat(count * inner, price).items():
            parts.setdefault(number // inner, []).append(piece)
        pieces: list[Piece] = []
        anyway: dict[int, float] = {}
        for finer in parts.values():
            piece = self._joined(finer, price, anyway)
            pieces.append(piece)
            anyway |= dict.fromkeys((v.id for v in piece.kept), 0.0)
        return pieces

    def _joined(self, pieces: Sequence[Piece], price: float, there: Mapping[int, float]) -> Piece:
        """One piece of several: before the first, what the others start from is made, too."""
        first, *others = pieces
        own = frozenset().union(*(piece.stages for piece in pieces))
        starts = {v.id: v for piece in others for v in piece.kept}
        needed = [*self._read_by(first.stages), *starts]
        cut = self._cuts.minimum(price, there, needed=needed)
        outer = Span(first.first, own, cut.recomputed)
        inner = [dataclasses.replace(piece.spans[0], outer=outer) for piece in others]
        kept = {v.id for v in cut.kept}
        # For the last of those that start from it.
        held = {v.id: (v, outer.first, p.first) for p in others for v in p.kept if v.id not in kept}
        total = self._price_of(cut) + sum(piece.price for piece in others)
        return Piece((outer, *inner), cut.kept, total, tuple(held.values()))

    def _pieces(
        self, parts: Mapping[int, Sequence[Node]], price: float, there: Mapping[int, float]
    ) -> dict[int, Piece]:
        """For each row of stages what is to be kept for it, and what runs again.

        What is kept for the rows before, which end with later layers, is there anyway.
        """
        pieces: dict[int, Piece] = {}
        anyway = dict(there)
        for number, stages in parts.items():
            own = frozenset(s.id for s in stages)
            cut = self._cuts.minimum(price, anyway, needed=self._read_by(own))
            span = Span(stages[0], own, cut.recomputed)
            pieces[number] = Piece((span,), cut.kept, self._price_of(cut))
            anyway |= dict.fromkeys((v.id for v in cut.kept), 0.0)
        return pieces

    def _read_by(self, stages: frozenset[int]) -> list[int]:
        """Ids of the storage roots that stages read."""
        return [r for r, by in self._readers.items() if any(s.id in stages for s in by)]

    def _price_of(self, cut: Cut) -> float:
        """The price of what a cut computes again."""
        return sum(self._prices.get(i, 0.0) for i in cut.recomputed)
