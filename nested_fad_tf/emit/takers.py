"""Gives matrix products and convolutions gradients that compute their input again.

The result of a cone that only such ops read isn't kept: each of them gets a gradient of its own,
which computes a copy from what is kept of the cone, when the cotangent is there, and hands it to
the gradient that TensorFlow has for the op.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from nested_fad_tf.emit import carrier, primitives
from nested_fad_tf.emit.cone_kernels import Kernels, copy
from nested_fad_tf.graph.view import Node
from nested_fad_tf.plan.outside import Residual


def attach(
    residual: Residual, reader: Node, kept: Sequence[tf.Tensor], kernels: Kernels
) -> tf.Tensor:
    """Lets the gradient of an op compute an input again.

    Args:
        residual: The cone whose result the input is, perhaps reshaped.
        reader: The op.
        kept: What is kept of the cone.
        kernels: Compiled functions.

    Returns:
        The op's result, with that gradient.
    """
    assert reader.op is not None
    places = [i for i, v in enumerate(reader.inputs) if v.storage is residual.cone.output]
    inputs = list(reader.op.inputs)
    shapes = [tf.shape(inputs[i]) for i in places]
    again = kernels.again(residual, kept) if residual.compiled else None
    gradient = _Gradient(residual, reader, tuple(places), again)
    return carrier.carry(reader.op.outputs[0], [*inputs, *kept], shapes, gradient)


@dataclasses.dataclass(frozen=True)
class _Gradient:
    """The gradient of an op that reads a cone's result.

    Attributes:
        residual: The cone.
        reader: The op.
        places: Which of the op's inputs are the result.
        again: A function from the kept tensors to the result; `None` if plain ops compute it.
    """

    residual: Residual
    reader: Node
    places: tuple[int, ...]
    again: Any = None

    def __call__(
        self, cotangent: tf.Tensor, carried: Sequence[tf.Tensor], shapes: Sequence[tf.Tensor]
    ) -> list[tf.Tensor | None]:
        """Computes the cotangents of the op's inputs.

        Args:
            cotangent: That of its result.
            carried: Its inputs, and what is kept of the cone.
            shapes: The shapes of the inputs that are computed again.

        Returns:
            The cotangents; shorter than `carried`, as what is kept has none.
        """
        count = len(self.reader.inputs)
        inputs, kept = list(carried[:count]), carried[count:]
        with tf.control_dependencies([cotangent]):
            result = self.again(*kept)[0] if self.again else copy(self.residual, kept)
        for place, shape in zip(self.places, shapes, strict=True):
            static = inputs[place].shape
            inputs[place] = tf.reshape(result, shape)
            inputs[place].set_shape(static)
        given = primitives.gradient_function(self.reader.op_type)
        cotangents = given(_AsGiven(self.reader.op, inputs), cotangent)
        return list(cotangents)


class _AsGiven:
    """An op with other inputs, as far as gradient functions look."""

    def __init__(self, op: Any, inputs: Sequence[tf.Tensor]) -> None:
        self.inputs = inputs
        self.outputs = op.outputs
        self.type = op.type
        self.get_attr = op.get_attr
