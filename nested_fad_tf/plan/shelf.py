"""The derivatives of a region, stored in the forward pass and brought back for their cotangents."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping

from nested_fad_tf.graph.nodes import Value
from nested_fad_tf.ops.expr import Expr, Leaf, largest_parts, substitute
from nested_fad_tf.plan.factor import Region
from nested_fad_tf.plan.inverse import Inverse
from nested_fad_tf.plan.lower import Lowering
from nested_fad_tf.plan.maker import NodeMaker
from nested_fad_tf.plan.plan import Keep
from nested_fad_tf.plan.rewrite import Restored, RewriteBuilder
from nested_fad_tf.plan.sources import values_of
from nested_fad_tf.plan.spread import spread_again
from nested_fad_tf.plan.storage import Format, kept_as


@dataclasses.dataclass(frozen=True)
class Stored:
    """A derivative, or a part of one, as it is kept.

    Attributes:
        derivative: The derivative.
        value: Its value in the forward pass, or what tells it.
        format: How it is stored.
        parts: What is kept, the largest first; none if the value is enough.
    """

    derivative: Expr
    value: Value
    format: Format
    parts: tuple[Value, ...]

    @property
    def kept(self) -> Value:
        """The largest part of what is kept."""
        return self.parts[0] if self.parts else self.value

    def keep(self, why: str) -> Keep:
        """What is kept, as the plan lists it.

        Args:
            why: Why.

        Returns:
            An entry of the plan.
        """
        size = sum(v.nbytes for v in self.parts or (self.value,))
        return Keep(self.kept, why + kept_as(self.format), self.format.name, size)


def split(derivative: Expr, formats: Collection[Expr]) -> tuple[list[Expr], list[Value]]:
    """What a derivative is made of.

    Args:
        derivative: A derivative.
        formats: Derivatives, and parts of them, that are stored.

    Returns:
        The largest parts of it that are stored, and the values that it is made of besides.
    """
    stored, beside = largest_parts(derivative, formats.__contains__)
    return stored, [value for leaf in beside for value in values_of(leaf)]


class Shelf:
    """Stores the derivatives of one region.

    Args:
        builder: Where the nodes go.
        region: The region.
        formats: What is stored, and how.
        spread: Ids of values that are kept as what they are spread from: see plan/spread.py.

    Attributes:
        stored: What is stored, by derivative or part of one.
        computed: Values of the derivatives that are kept as they are.
    """

    def __init__(
        self,
        builder: RewriteBuilder,
        region: Region,
        formats: Mapping[Expr, Format],
        spread: Collection[int],
    ) -> None:
        self.stored: dict[Expr, Stored] = {}
        self.computed: dict[Expr, Value] = {}
        self._builder = builder
        self._origin = region.nodes[-1]
        self._dtype = region.dtype
        self._formats = formats
        self._spread = spread
        self._store = NodeMaker(builder, self._origin, "/derivative")
        self._forward = Lowering(self._store, self._dtype)
        self._taken: dict[tuple[Expr, int], Value] = {}  # by derivative and cotangent

    def as_it_is(self, derivative: Expr, cotangent: Value) -> Value:
        """Computes a derivative in the forward pass.

        Args:
            derivative: The derivative.
            cotangent: What it is multiplied with.

        Returns:
            Its value, spread again if that is how it is kept.
        """
        value = self._forward.lower(derivative)
        if value.id in self._spread:
            return spread_again(self._builder, value, cotangent)
        self.computed[derivative] = value
        return value

    def bring_back(
        self, derivative: Expr, parts: Iterable[Expr], values: Iterable[Value], cotangent: Value
    ) -> Value:
        """Computes a derivative from stored parts, once its cotangent is there.

        Args:
            derivative: The derivative.
            parts: The parts of it that are stored: see `split`.
            values: What it is made of besides.
            cotangent: What it is multiplied with.

        Returns:
            A value close to the derivative's.
        """
        memo: dict[Expr, Expr] = {part: Leaf(self._take(part, cotangent)) for part in parts}
        for value in values:
            if value.id in self._spread:
                memo[Leaf(value)] = Leaf(spread_again(self._builder, value, cotangent))
        back = self._back(cotangent)
        return Lowering(back, self._dtype).lower(substitute(derivative, Leaf, memo))

    def _take(self, part: Expr, cotangent: Value) -> Value:
        key = part, cotangent.id
        if key not in self._taken:
            stored = self._put(part)
            back = stored.format.unpack(self._back(cotangent), stored.parts, stored.value)
            self._builder.restored.append(Restored(stored.kept, part, back))
            self._taken[key] = back
        return self._taken[key]

    def _put(self, part: Expr) -> Stored:
        if part not in self.stored:
            format = self._formats[part]
            value = format.output if isinstance(format, Inverse) else self._forward.lower(part)
            parts = format.pack(self._store, value)
            self.stored[part] = Stored(part, value, format, parts)
        return self.stored[part]

    def _back(self, cotangent: Value) -> NodeMaker:
        return NodeMaker(self._builder, self._origin, "/product", controls=[cotangent.node])
