"""Where values lie between bounds, kept as bits for gradients that ask for no more.

The gradient of ReLU passes a cotangent where its input was above zero. A number that says so, one
or zero, serves it as well as the input itself, and is brought back exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.plan.bits import BITS, fits
from nested_fad_tf.plan.maker import NodeMaker
from nested_fad_tf.plan.packing import Packing
from nested_fad_tf.plan.rewrite import RewriteBuilder


class Masks:
    """Makes masks, each once.

    Args:
        builder: Where the nodes go.
        packing: Keeps them.
    """

    def __init__(self, builder: RewriteBuilder, packing: Packing) -> None:
        self._builder = builder
        self._packing = packing
        self._made: dict[tuple[int, Sequence[float]], Value] = {}

    @property
    def kept(self) -> list[Value]:
        """What is kept: bits, or booleans whose number is no multiple of 8."""
        return [self._packing.kept(mask) for mask in self._made.values()]

    def read(self, value: Value, bounds: Sequence[float], hold: Callable[[Node], None]) -> Value:
        """Adds what the backward pass reads in the place of a value.

        Args:
            value: A value of the forward pass.
            bounds: What it has to be above, and below if there is a second.
            hold: Lets a node wait for the backward pass.

        Returns:
            A tensor of the same shape and dtype: 1 where it is, 0 elsewhere.
        """
        make = NodeMaker(self._builder, value.node)
        key = value.id, tuple(bounds)
        if key not in self._made:
            self._made[key] = _compare(make, value, bounds)
        mask = self._made[key]
        format = BITS if fits(mask.shape) else None
        boolean = self._packing.read(mask, format, hold)
        number = make.cast(boolean, value.dtype, "/passes")
        if boolean is mask:
            hold(number.node)
        return number


def _compare(make: NodeMaker, value: Value, bounds: Sequence[float]) -> Value:
    compared = []
    for op_type, bound in zip(("Greater", "Less"), bounds, strict=False):
        limit = make.number(bound, value.dtype, f"/{op_type}/bound")
        attrs = {"T": value.dtype}
        read = [value, limit]
        compared.append(
            make.add(op_type, read, tf.bool, value.shape, f"/{op_type}", attrs, like=value)
        )
    if len(compared) == 1:
        return compared[0]
    return make.add("LogicalAnd", compared, tf.bool, value.shape, "/between", {}, like=value)
