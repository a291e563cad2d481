"""Values that are packed in the forward pass, and unpacked where the backward pass reads them."""

from __future__ import annotations

from collections.abc import Callable

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.ops.expr import Leaf
from nested_fad_tf.plan.maker import NodeMaker
from nested_fad_tf.plan.prompt import Prompt
from nested_fad_tf.plan.rewrite import Restored, RewriteBuilder
from nested_fad_tf.plan.storage import Format


class Packing:
    """Packs values, each once.

    Args:
        builder: Where the nodes go.
        prompt: Lets the forward pass wait until a value is packed.
    """

    def __init__(self, builder: RewriteBuilder, prompt: Prompt) -> None:
        self._builder = builder
        self._prompt = prompt
        self._packed: dict[int, tuple[Value, ...]] = {}  # by value id

    def read(self, value: Value, format: Format | None, hold: Callable[[Node], None]) -> Value:
        """Adds what the backward pass reads in the place of a value.

        Args:
            value: A value of the forward pass.
            format: How it is stored; `None` as it is.
            hold: Lets a node wait for the backward pass.

        Returns:
            The value unpacked; itself if it is stored as it is.
        """
        make = NodeMaker(self._builder, value.node.traced)
        if value.id not in self._packed:
            self._packed[value.id] = self._pack(make, value, format)
        packed = self._packed[value.id]
        if format is None:
            return value
        first = len(self._builder.nodes)
        unpacked = format.unpack(make, packed, value)
        if format.loss:
            self._builder.restored.append(Restored(value, Leaf(value), unpacked))
        for node in self._builder.nodes[first:]:
            if packed[0] in node.inputs:
                hold(node)
        return unpacked

    def kept(self, value: Value) -> Value:
        """What is kept of a value that has been read.

        Args:
            value: The value.

        Returns:
            The largest part that it was packed to; itself if it is stored as it is.
        """
        return self._packed[value.id][0]

    def _pack(self, make: NodeMaker, value: Value, format: Format | None) -> tuple[Value, ...]:
        packed = (value,) if format is None else format.pack(make, value)
        added = value.node.origin
        # A boolean of the trace takes little. What is packed with a loss doesn't, nor does what an
        # added node was made from: the next layer waits until it can go.
        if added is not None or (format is not None and format.loss):
            self._prompt.run_early((added or value.node).id, packed[0].node)
        return packed
