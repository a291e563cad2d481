"""Numbers in a shorter floating-point type: a cast there, a cast back."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import tensorflow as tf

from nested_fad_tf.graph.nodes import Value
from nested_fad_tf.plan.maker import NodeMaker
from nested_fad_tf.plan.storage import Extent


@dataclasses.dataclass(frozen=True)
class Rounded:
    """Rounds to the nearest number of a type, to the even one of two: infinities and nans stay.

    bfloat16 has the range of float32 and 8 bits of precision: a number is off by at most 1/256 of
    itself. Beyond float32's range a float64 becomes infinite.

    Attributes:
        dtype: The type.
    """

    dtype: tf.DType

    loss: ClassVar[str] = "lossy"
    passes: ClassVar[int] = 2

    @property
    def name(self) -> str:
        """What the report calls it."""
        return str(self.dtype.name)

    def stored_bytes(self, extent: Extent) -> int | None:
        """What a tensor takes: see `Format`."""
        return extent.elements * int(self.dtype.size)

    def pack(self, make: NodeMaker, value: Value) -> tuple[Value, ...]:
        """Stores a tensor: see `Format`."""
        return (make.cast(value, self.dtype, f"/{self.name}"),)

    def unpack(self, make: NodeMaker, parts: tuple[Value, ...], value: Value) -> Value:
        """Brings it back: see `Format`."""
        return make.cast(parts[0], value.dtype, f"/from_{self.name}")
