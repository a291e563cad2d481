"""Gradients of cones in functions of their own, so that a SavedModel can hold them.

A SavedModel stores what a registered gradient reads as tensors of one function's graph. The body of
a loop has no such graph: TensorFlow makes a new one of it each time it differentiates the loop. But
the gradients of functions that are called there are those of their own graphs. So the op that
carries a cone's gradient goes into a function whose arguments are all that the gradient reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2

from nested_fad_tf.emit import function, primitives
from nested_fad_tf.graph.nodes import OWN_GRADIENT

_NAME = "nested_fad_gradient"

Body = Callable[[Sequence[tf.Tensor]], tf.Tensor]


class Outlines:
    """Functions that carry gradients; cones of equal structure share theirs.

    Attributes:
        functions: Those made so far, as `ConcreteFunction`s.
    """

    def __init__(self) -> None:
        """Starts without any."""
        self._made: dict[Any, Any] = {}

    @property
    def functions(self) -> list[Any]:
        """The functions made so far, as `ConcreteFunction`s."""
        return list(self._made.values())

    def call(
        self, key: Any, arguments: Sequence[tf.Tensor], kept: Sequence[int], body: Body
    ) -> tf.Tensor:
        """Calls the function of a cone, making it if there is none of its kind yet.

        Args:
            key: What cones of equal structure have in common.
            arguments: The cone's result, its active inputs, and all that its gradient reads.
            kept: Which of the arguments the gradient reads.
            body: From arguments to the result with its own gradient, as ops in the current graph.

        Returns:
            The result with its own gradient.
        """
        specs = [tf.TensorSpec(t.shape, t.dtype) for t in arguments]
        full_key = key, *specs
        if full_key not in self._made:
            made = function.build(_NAME, specs, lambda inner: [body(inner)], compiled=False)
            self._made[full_key] = made
        (result,) = self._made[full_key](*arguments)
        result.set_shape(arguments[0].shape)
        reads = attr_value_pb2.AttrValue.ListValue(i=kept)
        primitives.set_attribute(result.op, OWN_GRADIENT, attr_value_pb2.AttrValue(list=reads))
        return result
