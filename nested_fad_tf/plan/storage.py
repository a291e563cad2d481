"""What a format that buffers are stored in has to offer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol

import tensorflow as tf

from nested_fad_tf.graph.nodes import Value
from nested_fad_tf.graph.sizes import Shape
from nested_fad_tf.plan.maker import NodeMaker


@dataclasses.dataclass(frozen=True)
class Extent:
    """How large a tensor is.

    Attributes:
        dtype: Its dtype.
        shape: Its static shape, `None` for an unknown rank.
        elements: How many elements it has, unknown dimensions at their nominal size.
        nominal: That size.
    """

    dtype: tf.DType
    shape: Shape | None
    elements: int
    nominal: int

    @property
    def nbytes(self) -> int:
        """What it takes as it is."""
        return self.elements * int(self.dtype.size)

    def count(self, axes: Sequence[int]) -> int:
        """How many elements lie along some axes.

        Args:
            axes: The axes.

        Returns:
            The product of their sizes, unknown ones at the nominal size.
        """
        assert self.shape is not None
        dims = [self.shape[axis] for axis in axes]
        return math.prod(self.nominal if d is None else d for d in dims)


def extent_of(value: Value, nominal: int) -> Extent:
    """How large a value is.

    Args:
        value: A value of a graph.
        nominal: What stands in for an unknown dimension.

    Returns:
        Its size.
    """
    return Extent(value.dtype, value.shape, value.nbytes // value.dtype.size, nominal)


def arithmetic(dtype: tf.DType) -> tf.DType:
    """What storing and bringing back is computed in: half precision has no room for it.

    Args:
        dtype: A floating dtype.

    Returns:
        float64 for float64, else float32.
    """
    return tf.float64 if dtype == tf.float64 else tf.float32


class Format(Protocol):
    """A way to store a tensor in fewer bytes.

    With a loss or without; a number that isn't finite must not come back finite, and zero must come
    back as zero: it masks.
    """

    @property
    def name(self) -> str:
        """What the report calls it."""

    @property
    def loss(self) -> str:
        """That what comes back differs from what was stored, in words; empty if it doesn't."""

    @property
    def passes(self) -> int:
        """What storing and bringing back take, as a number of cheap ops on the tensor."""

    def stored_bytes(self, extent: Extent) -> int | None:
        """What a tensor takes.

        Args:
            extent: How large it is.

        Returns:
            The bytes; `None` if the format can't hold it.
        """

    def pack(self, make: NodeMaker, value: Value) -> tuple[Value, ...]:
        """Adds the nodes that store a tensor.

        Args:
            make: Makes them, in the forward pass.
            value: The tensor; `stored_bytes` is not `None` for it.

        Returns:
            What is kept, the largest first.
        """

    def unpack(self, make: NodeMaker, parts: tuple[Value, ...], value: Value) -> Value:
        """Adds the nodes that bring it back.

        Args:
            make: Makes them, in the backward pass.
            parts: What `pack` gave.
            value: The tensor that was stored: gives the dtype and the shape.

        Returns:
            A tensor close to it.
        """


def kept_as(format: Format) -> str:
    """How something is kept, to be added to why it is.

    Args:
        format: Its format.

    Returns:
        The format, and what is lost, in brackets.
    """
    return f" (kept as {', '.join(filter(None, (format.name, format.loss)))})"
