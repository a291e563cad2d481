"""Where values lie between bounds, kept as bits for gradients that ask for no more.

The gradient of ReLU passes a cotangent where its input was above zero. A number that says so, one
or zero, serves it as well as the input itself, and is brought back exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.plan.bits import Bits
from nested_fad_tf.plan.maker import NodeMaker
from nested_fad_tf.plan.prompt import Prompt
from nested_fad_tf.plan.rewrite import RewriteBuilder
from nested_fad_tf.plan.storage import extent_of

_BITS = Bits()


class Masks:
    """Makes masks, each once.

    Args:
        builder: Where the nodes go.
        prompt: Lets the forward pass wait until a mask is packed.
    """

    def __init__(self, builder: RewriteBuilder, prompt: Prompt) -> None:
        self._builder = builder
        self._prompt = prompt
        self._made: dict[tuple[int, Sequence[float]], tuple[Value, Value]] = {}

    @property
    def kept(self) -> list[Value]:
        """What is kept: bits, or booleans whose number is no multiple of 8."""
        return [kept for _, kept in self._made.values()]

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
            self._made[key] = self._make(make, value, bounds)
        mask, kept = self._made[key]
        first = len(self._builder.nodes)
        boolean = mask if kept is mask else _BITS.unpack(make, (kept,), mask)
        number = make.cast(boolean, value.dtype, "/passes")
        for node in self._builder.nodes[first:]:
            if kept in node.inputs:
                hold(node)
        return number

    def _make(self, make: NodeMaker, value: Value, bounds: Sequence[float]) -> tuple[Value, Value]:
        """The mask, right after the value was made, and what is kept of it."""
        compared = []
        for op_type, bound in zip(("Greater", "Less"), bounds, strict=False):
            limit = make.number(bound, value.dtype, f"/{op_type}/bound")
            attrs = {"T": value.dtype}
            read = [value, limit]
            compared.append(
                make.add(op_type, read, tf.bool, value.shape, f"/{op_type}", attrs, like=value)
            )
        mask = compared[0]
        if len(compared) > 1:
            mask = make.add(
                "LogicalAnd", compared, tf.bool, value.shape, "/between", {}, like=value
            )
        fits = _BITS.stored_bytes(extent_of(mask, self._builder.view.nominal)) is not None
        kept = _BITS.pack(make, mask)[0] if fits else mask
        self._prompt.pack_early(value.node.id, kept.node)
        return mask, kept
