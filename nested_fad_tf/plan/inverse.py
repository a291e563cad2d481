"""Derivatives brought back from outputs that are kept anyway: see plan/inversion.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import ClassVar

import tensorflow as tf

from nested_fad_tf.graph.nodes import Value
from nested_fad_tf.ops.expr import Apply, Expr, Leaf, is_zero, largest_parts
from nested_fad_tf.plan.bits import BITS, fits
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.factor import Region
from nested_fad_tf.plan.inversion import Function, Inversion, invert
from nested_fad_tf.plan.maker import NodeMaker
from nested_fad_tf.plan.storage import Extent, Format, arithmetic
from nested_fad_tf.plan.univariate import Univariate


@dataclasses.dataclass(frozen=True)
class Inverse:
    """One bit for each derivative: on which side of the turn the input was.

    Attributes:
        output: The output, which the backward pass reads anyway.
        source: The input.
        inversion: How the derivative follows.
        mask: Where the output is that of the input, and the derivative not zero, as behind a
            dropout: a second bit. `None` for everywhere.
    """

    output: Value
    source: Value
    inversion: Inversion
    mask: Value | None = None

    name: ClassVar[str] = "inverse"

    @property
    def loss(self) -> str:
        """What is lost: see `Format`."""
        return f"lossy: off by at most {self.inversion.error:.1g}"

    @property
    def passes(self) -> int:
        """What bringing back takes: see `Format`."""
        return 2 * len(self.inversion.coefficients)

    def stored_bytes(self, extent: Extent) -> int | None:
        """What a derivative takes beside the output: see `Format`."""
        one = dataclasses.replace(extent, dtype=tf.bool)
        bits = BITS.stored_bytes(one)
        each = one.nbytes if bits is None else bits
        return each * ((self.inversion.turn is not None) + (self.mask is not None))

    def pack(self, make: NodeMaker, value: Value) -> tuple[Value, ...]:
        """Stores the side that the input is on, and the mask: see `Format`."""
        parts: tuple[Value, ...] = ()
        if self.inversion.turn is not None:
            turn = make.number(self.inversion.turn, self.source.dtype, "/turn")
            attrs = {"T": self.source.dtype}
            shape = self.source.shape
            read = [self.source, turn]
            after = make.add("Greater", read, tf.bool, shape, "/after", attrs, like=self.source)
            parts += _pack(make, after)
        return parts if self.mask is None else parts + _pack(make, self.mask)

    def unpack(self, make: NodeMaker, parts: tuple[Value, ...], value: Value) -> Value:
        """Brings the derivative back: see `Format`; the value is the output."""
        dtype = arithmetic(value.dtype)
        wide = value if value.dtype == dtype else make.cast(value, dtype, "/wide")
        coordinate = self._coordinate(make, parts, wide)
        bounds = {"Maximum": self.inversion.low, "Minimum": self.inversion.high}
        for op_type, bound in bounds.items():
            limit = make.number(bound, dtype, f"/{op_type}/bound")
            coordinate = make.binary(op_type, coordinate, limit, f"/{op_type}")
        factor, offset = (make.number(n, dtype, "/scale") for n in self.inversion.scale)
        scaled = make.binary("Mul", coordinate, factor, "/scaled")
        scaled = make.binary("AddV2", scaled, offset, "/moved")
        *lower, highest = (make.number(c, dtype, "/power") for c in self.inversion.coefficients)
        result = make.binary("Mul", scaled, highest, "/times")
        for power, coefficient in reversed(list(enumerate(lower))):
            result = make.binary("AddV2", result, coefficient, f"/plus_{power}")
            if power:
                result = make.binary("Mul", result, scaled, f"/times_{power}")
        result = result if dtype == value.dtype else make.cast(result, value.dtype, "/narrow")
        if self.mask is None:
            return result
        read = [_unpack(make, parts[-1], self.mask), result, self._nothing(make, result)]
        attrs = {"T": result.dtype}
        return make.add("SelectV2", read, result.dtype, result.shape, "/masked", attrs, like=result)

    def _nothing(self, make: NodeMaker, like: Value) -> Value:
        return make.number(0, like.dtype, "/nothing")

    def _coordinate(self, make: NodeMaker, parts: tuple[Value, ...], output: Value) -> Value:
        """What the polynomial is one of: see `Inversion.coordinate`."""
        if self.inversion.turn is None:
            return output
        dtype, shape, attrs = output.dtype, output.shape, {"T": output.dtype}
        extreme = make.number(self.inversion.extreme, dtype, "/extreme")
        read = [output, extreme] if self.inversion.rising else [extreme, output]
        distance = make.add("Sub", read, dtype, shape, "/distance", attrs, like=output)
        # What is rounded past the extreme has no root.
        positive = make.binary("Maximum", distance, self._nothing(make, output), "/positive")
        root = make.add("Sqrt", [positive], dtype, shape, "/root", attrs, like=output)
        negative = make.add("Neg", [root], dtype, shape, "/negative", attrs, like=output)
        after = _unpack(make, parts[0], self.output)
        return make.add(
            "SelectV2", [after, root, negative], dtype, shape, "/signed", attrs, like=output
        )


def _pack(make: NodeMaker, boolean: Value) -> tuple[Value, ...]:
    return BITS.pack(make, boolean) if fits(boolean.shape) else (boolean,)


def _unpack(make: NodeMaker, packed: Value, shaped: Value) -> Value:
    return BITS.unpack(make, (packed,), shaped) if fits(shaped.shape) else packed


@dataclasses.dataclass(frozen=True)
class _Output:
    """What may tell a derivative.

    Attributes:
        kept: What the backward pass reads.
        value: The function of the input that it is where the mask is true.
        mask: A boolean value, or `None`; elsewhere it is zero.
    """

    kept: Value
    value: Value
    mask: Value | None


class Inverses:
    """Finds derivatives that follow from outputs.

    Args:
        candidates: The buffers of the forward pass.
        spread: Ids of values that are kept as what they are spread from.
    """

    def __init__(self, candidates: Candidates, spread: Collection[int]) -> None:
        self._view = candidates.view
        self._needed = candidates.needed
        self._univariate = Univariate(candidates.view)
        self._found: dict[tuple[Expr, int], Inverse | None] = {}  # by derivative and region
        # By the id of a value: what is a function of it and read in the backward pass.
        self._outputs: dict[int, list[_Output]] = {}
        for id in candidates.needed.keys() - set(spread):
            output = self._output(candidates.view.values[id])
            source = self._univariate.source(Leaf(output.value))
            if source is not None and source is not output.value:
                self._outputs.setdefault(source.id, []).append(output)

    def parts(
        self, derivative: Expr, region: Region, allowed: Callable[[Expr, Region], bool]
    ) -> dict[Expr, Format]:
        """The largest parts of a derivative that follow from outputs.

        The scale of a normalisation, or a second input, is multiplied with what does.

        Args:
            derivative: An expression over forward values.
            region: The region that it belongs to.
            allowed: Whether a part may be stored with a loss.

        Returns:
            How they follow: from outputs that more than their own region reads.
        """
        found: dict[Expr, Format] = {}

        def follows(part: Expr) -> bool:
            key = part, region.nodes[-1].id
            if key not in self._found:
                inverse = self._find(part, region)
                self._found[key] = inverse if inverse and allowed(part, region) else None
            if (inverse := self._found[key]) is not None:
                found[part] = inverse
            return inverse is not None

        largest_parts(derivative, follows)
        return found

    def _find(self, part: Expr, region: Region) -> Inverse | None:
        mask, inner = _masked(part)
        source = self._univariate.source(inner)
        # A value of the forward pass is no derivative, whatever it follows from.
        if source is None or (isinstance(inner, Leaf) and inner.key is source):
            return None
        inside = {node.id for node in region.nodes}
        for output in self._outputs.get(source.id, ()):
            kept = any(reader.id not in inside for reader, _ in self._needed[output.kept.id])
            everywhere = output.mask is None or output.mask is mask
            if kept and everywhere and output.kept.dtype == region.dtype:
                inversion = self._invert(inner, output.value, source)
                if inversion is not None:
                    return Inverse(output.kept, source, inversion, mask)
        return None

    def _output(self, kept: Value) -> _Output:
        """Looks behind a dropout."""
        if kept.node.op_type == "SelectV2":
            condition, value, other = kept.node.inputs
            zero = self._view.constant(other)
            same = kept.shape is not None and kept.shape == value.shape == condition.shape
            if same and zero is not None and not zero.any():
                return _Output(kept, value, condition)
        return _Output(kept, kept, None)

    def _invert(self, derivative: Expr, output: Value, source: Value) -> Inversion | None:
        def tabulated(expr: Expr) -> Function:
            return lambda numbers: self._univariate.tabulate(expr, source, numbers)

        dtype = output.dtype.as_numpy_dtype
        return invert(tabulated(Leaf(output)), tabulated(derivative), dtype)


def _masked(part: Expr) -> tuple[Value | None, Expr]:
    """The mask that a derivative is zero without, and the rest of it."""
    if isinstance(part, Apply) and part.op_type == "SelectV2":
        condition, inner, other = part.args
        if is_zero(other) and isinstance(condition, Leaf) and isinstance(condition.key, Value):
            return condition.key, inner
    return None, part
