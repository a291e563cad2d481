"""Derivatives brought back from outputs that are kept anyway: see plan/inversion.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import ClassVar

import tensorflow as tf

from nested_fad_tf.graph.nodes import Value
from nested_fad_tf.ops.expr import Expr, Leaf
from nested_fad_tf.plan.bits import BITS, fits
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.factor import Region
from nested_fad_tf.plan.inversion import Function, Inversion, invert
from nested_fad_tf.plan.maker import NodeMaker
from nested_fad_tf.plan.storage import Extent, arithmetic
from nested_fad_tf.plan.univariate import Univariate


@dataclasses.dataclass(frozen=True)
class Inverse:
    """One bit for each derivative: on which side of the turn the input was.

    Attributes:
        output: The output, which the backward pass reads anyway.
        source: The input.
        inversion: How the derivative follows.
    """

    output: Value
    source: Value
    inversion: Inversion

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
        if self.inversion.turn is None:
            return 0
        sides = dataclasses.replace(extent, dtype=tf.bool)
        bits = BITS.stored_bytes(sides)
        return sides.nbytes if bits is None else bits

    def pack(self, make: NodeMaker, value: Value) -> tuple[Value, ...]:
        """Stores the side that the input is on: see `Format`; the value is the output."""
        if self.inversion.turn is None:
            return ()
        turn = make.number(self.inversion.turn, self.source.dtype, "/turn")
        attrs = {"T": self.source.dtype}
        shape = self.source.shape
        read = [self.source, turn]
        after = make.add("Greater", read, tf.bool, shape, "/after", attrs, like=self.source)
        return BITS.pack(make, after) if fits(shape) else (after,)

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
        return result if dtype == value.dtype else make.cast(result, value.dtype, "/narrow")

    def _coordinate(self, make: NodeMaker, parts: tuple[Value, ...], output: Value) -> Value:
        """What the polynomial is one of: see `Inversion.coordinate`."""
        if self.inversion.turn is None:
            return output
        dtype, shape, attrs = output.dtype, output.shape, {"T": output.dtype}
        extreme = make.number(self.inversion.extreme, dtype, "/extreme")
        read = [output, extreme] if self.inversion.rising else [extreme, output]
        distance = make.add("Sub", read, dtype, shape, "/distance", attrs, like=output)
        nothing = make.number(0, dtype, "/nothing")
        # What is rounded past the extreme has no root.
        positive = make.binary("Maximum", distance, nothing, "/positive")
        root = make.add("Sqrt", [positive], dtype, shape, "/root", attrs, like=output)
        negative = make.add("Neg", [root], dtype, shape, "/negative", attrs, like=output)
        after = BITS.unpack(make, parts, self.output) if fits(self.source.shape) else parts[0]
        return make.add(
            "SelectV2", [after, root, negative], dtype, shape, "/signed", attrs, like=output
        )


class Inverses:
    """Finds derivatives that follow from outputs.

    Args:
        candidates: The buffers of the forward pass.
        spread: Ids of values that are kept as what they are spread from.
    """

    def __init__(self, candidates: Candidates, spread: Collection[int]) -> None:
        self._needed = candidates.needed
        self._univariate = Univariate(candidates.view)
        self._found: dict[tuple[Expr, int], Inverse | None] = {}  # by derivative and region
        # By the id of a value: what is a function of it and read in the backward pass.
        self._outputs: dict[int, list[Value]] = {}
        for id in candidates.needed.keys() - set(spread):
            output = candidates.view.values[id]
            source = self._univariate.source(Leaf(output))
            if source is not None and source is not output:
                self._outputs.setdefault(source.id, []).append(output)

    def find(self, derivative: Expr, region: Region) -> Inverse | None:
        """How a derivative follows from an output that more than its own region reads.

        Args:
            derivative: An expression over forward values.
            region: The region that it belongs to.

        Returns:
            How; `None` if it doesn't.
        """
        key = derivative, region.nodes[-1].id
        if key not in self._found:
            self._found[key] = self._find(derivative, region)
        return self._found[key]

    def _find(self, derivative: Expr, region: Region) -> Inverse | None:
        source = self._univariate.source(derivative)
        if source is None:
            return None
        inside = {node.id for node in region.nodes}
        for output in self._outputs.get(source.id, ()):
            kept = any(reader.id not in inside for reader, _ in self._needed[output.id])
            if kept and output.dtype == region.dtype:
                inversion = self._invert(derivative, output, source)
                if inversion is not None:
                    return Inverse(output, source, inversion)
        return None

    def _invert(self, derivative: Expr, output: Value, source: Value) -> Inversion | None:
        def tabulated(expr: Expr) -> Function:
            return lambda numbers: self._univariate.tabulate(expr, source, numbers)

        dtype = output.dtype.as_numpy_dtype
        return invert(tabulated(Leaf(output)), tabulated(derivative), dtype)
