"""Derivatives in narrower formats: packed in the forward pass, unpacked for their cotangent.

Lossy, and only for `Options.precision`. What is stored so are derivatives and nothing else: the
forward pass never reads them, so that outputs and the loss are what they were.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Collection, Sequence

import tensorflow as tf

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.graph.sizes import size_in_bytes
from nested_fad_tf.ops.expr import Const, Expr, Leaf
from nested_fad_tf.options import Options
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.factor import Region
from nested_fad_tf.plan.formats import format_of
from nested_fad_tf.plan.inverse import Inverse, Inverses
from nested_fad_tf.plan.lower import Lowering, broadcast
from nested_fad_tf.plan.maker import NodeMaker
from nested_fad_tf.plan.plan import Keep
from nested_fad_tf.plan.rewrite import RewriteBuilder
from nested_fad_tf.plan.sources import find_awaited, find_factors, latest_source, values_of
from nested_fad_tf.plan.storage import Extent, Format, kept_as


@dataclasses.dataclass(frozen=True)
class Stored:
    """A derivative as it is kept.

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

    def keep(self, why: str) -> Keep:
        """What is kept, as the plan lists it.

        Args:
            why: Why.

        Returns:
            An entry of the plan.
        """
        parts = self.parts or (self.value,)
        size = sum(v.nbytes for v in parts)
        return Keep(parts[0], why + kept_as(self.format), self.format.name, size)


class Narrowing:
    """Decides how derivatives are stored.

    Args:
        candidates: The buffers of the forward pass.
        options: The precision, and what is too small to bother.
        spread: Ids of values that are kept as what they are spread from: see plan/spread.py.
    """

    def __init__(
        self, candidates: Candidates, options: Options, spread: Collection[int] = ()
    ) -> None:
        self._candidates = candidates
        self._options = options
        self._spread = spread
        self._factors = find_factors(candidates)

    @functools.cached_property
    def _awaited(self) -> list[bool]:
        """Per node id, whether it is a cotangent that has to be waited for: see `sources`."""
        return find_awaited(self._candidates)

    @functools.cached_property
    def _inverses(self) -> Inverses:
        """Finds derivatives that follow from outputs."""
        return Inverses(self._candidates, self._spread)

    def formats(self, region: Region) -> dict[Expr, Format]:
        """The formats that the derivatives of a region are stored in.

        A cotangent that is made of the seed alone is there as soon as the forward pass is through:
        what it is multiplied with is kept for no time, and rounding it would spoil all gradients.

        Args:
            region: A region of the backward pass.

        Returns:
            For each derivative that is stored with a loss its format.
        """
        if self._options.precision == "exact":
            return {}
        pairs = [pair for row in region.derivatives.values() for pair in row.items()]
        at_once = {d for cotangent, d in pairs if not self._awaited[cotangent.node.id]}
        found = {d: self.format_of(d, region) for _, d in pairs if d not in at_once}
        return {d: format for d, format in found.items() if format is not None}

    def stored(self, derivative: Expr, format: Format | None, forward: Lowering) -> Value:
        """What a derivative is brought back from, or multiplied with if it is kept as it is.

        Args:
            derivative: An expression over forward values.
            format: Its format.
            forward: Makes nodes in the forward pass.

        Returns:
            The value of the derivative, or an output that tells it.
        """
        return format.output if isinstance(format, Inverse) else forward.lower(derivative)

    def format_of(self, derivative: Expr, region: Region) -> Format | None:
        """The format that a derivative is stored in, if it has to be kept.

        Args:
            derivative: An expression over forward values.
            region: The region that it belongs to.

        Returns:
            The format; `None` if it is kept as it is: always with precision "exact", else if it is
            small, if it is itself a value of the forward pass, on which the loss depends, or if
            something delays it to the backward pass.
        """
        if self._options.precision == "exact" or isinstance(derivative, Const):
            return None
        if isinstance(derivative, Leaf) and not self._is_factor(derivative):
            return None
        extent = self.extent(derivative, region.dtype)
        if extent.nbytes < self._options.min_bytes or self.latest_source(derivative) is None:
            return None
        if self._options.precision == "inverse":
            return self._inverses.find(derivative, region)
        return format_of(self._options.precision, extent)

    def nbytes(self, derivative: Expr, dtype: tf.DType, format: Format | None) -> int:
        """What keeping a derivative takes.

        Args:
            derivative: An expression over forward values, no number.
            dtype: Of its arithmetic.
            format: The format that it is stored in, `None` if it is kept as it is.

        Returns:
            The bytes.
        """
        extent = self.extent(derivative, dtype)
        stored = None if format is None else format.stored_bytes(extent)
        return extent.nbytes if stored is None else stored

    def extent(self, derivative: Expr, dtype: tf.DType) -> Extent:
        """How large a derivative is.

        Args:
            derivative: An expression over forward values, no number.
            dtype: Of its arithmetic.

        Returns:
            Its size; where dimensions are unknown that of the largest value it is computed from.
        """
        values = values_of(derivative)
        nominal = self._candidates.view.nominal
        shape = broadcast([v.shape for v in values])
        elements = max(v.nbytes // v.dtype.size for v in values)
        if shape is not None and shape.count(None) < 2:
            elements = size_in_bytes(dtype, shape, nominal) // dtype.size
        return Extent(dtype, shape, elements, nominal)

    def latest_source(self, derivative: Expr) -> int | None:
        """The last op of the forward pass that a derivative waits for: see `sources`.

        Args:
            derivative: An expression over forward values.

        Returns:
            Its node id, -1 if there is none; `None` if the derivative can't be computed in the
            forward pass.
        """
        return latest_source(self._candidates, self._factors, derivative)

    def _is_factor(self, leaf: Leaf) -> bool:
        assert isinstance(leaf.key, Value)
        return self._factors[leaf.key.node.id]


class Shelf:
    """Stores the derivatives of one region.

    Args:
        builder: Where the nodes go.
        origin: The traced node that they are named after.

    Attributes:
        stored: What is stored, by derivative.
    """

    def __init__(self, builder: RewriteBuilder, origin: Node) -> None:
        self.stored: dict[Expr, Stored] = {}
        self._builder = builder
        self._origin = origin
        self._taken: dict[tuple[Expr, int], Value] = {}  # by derivative and cotangent

    def put(self, derivative: Expr, value: Value, format: Format) -> None:
        """Stores a derivative, unless it is stored already.

        Args:
            derivative: The derivative.
            value: Its value in the forward pass, or what tells it.
            format: How to store it.
        """
        if derivative not in self.stored:
            make = NodeMaker(self._builder, self._origin, suffix="/derivative")
            parts = format.pack(make, value)
            self.stored[derivative] = Stored(derivative, value, format, parts)

    def take(self, derivative: Expr, cotangent: Value) -> Value:
        """Brings a derivative back, once the cotangent that it is multiplied with is there.

        Args:
            derivative: The derivative.
            cotangent: The cotangent.

        Returns:
            A value close to the derivative's.
        """
        key = derivative, cotangent.id
        if key not in self._taken:
            make = NodeMaker(
                self._builder, self._origin, suffix="/product", controls=[cotangent.node]
            )
            stored = self.stored[derivative]
            self._taken[key] = stored.format.unpack(make, stored.parts, stored.value)
        return self._taken[key]


def narrow_note(derivatives: Sequence[Keep], precision: str) -> str:
    """Says how derivatives are kept.

    Args:
        derivatives: All that are kept.
        precision: As in the options.

    Returns:
        The formats and how many derivatives are in each; empty if the precision is "exact".
    """
    if precision == "exact":
        return ""
    formats = Counter(keep.format for keep in derivatives)
    lossy = any(keep.format != "exact" for keep in derivatives)
    counts = ", ".join(f"{count} {name}" for name, count in formats.items()) or "none"
    return f"derivatives kept: {counts}" + (" (gradients are approximate)" if lossy else "")
