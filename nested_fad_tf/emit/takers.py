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

from nested_fad_tf.emit import attributes, carrier, primitives
from nested_fad_tf.emit.cone_kernels import Kernels, copy, structure
from nested_fad_tf.emit.outlined import Outlines
from nested_fad_tf.graph.nodes import Node
from nested_fad_tf.plan.outside import Residual


@dataclasses.dataclass(frozen=True)
class Taken:
    """A cone's result that an op's gradient computes again.

    Attributes:
        residual: The cone.
        kept: What is kept of it.
    """

    residual: Residual
    kept: Sequence[tf.Tensor]

    def places(self, reader: Node) -> tuple[int, ...]:
        """Which of an op's inputs are the result, perhaps reshaped."""
        output = self.residual.cone.output
        return tuple(i for i, v in enumerate(reader.inputs) if v.storage is output)


def attach(
    takes: Sequence[Taken], reader: Node, kernels: Kernels, outlines: Outlines | None
) -> tf.Tensor:
    """Lets the gradient of an op compute inputs again.

    Args:
        takes: Those of its inputs.
        reader: The op.
        kernels: Compiled functions.
        outlines: Where to put gradients that a SavedModel is to hold.

    Returns:
        The op's result, with that gradient.
    """
    assert reader.op is not None
    inputs = list(reader.op.inputs)
    places = [t.places(reader) for t in takes]
    kept = [k for t in takes for k in t.kept]
    shapes = [tf.shape(inputs[i]) for own in places for i in own]
    first = 1 + len(inputs)
    last = first + len(kept)

    def body(arguments: Sequence[tf.Tensor]) -> tf.Tensor:
        rest = iter(arguments[first:last])
        parts = []
        for taken, own in zip(takes, places, strict=True):
            own_kept = [next(rest) for _ in taken.kept]
            compiled = taken.residual.compiled
            again = kernels.again(taken.residual, own_kept) if compiled else None
            parts.append(_Part(taken.residual, own, again))
        gradient = _Gradient(reader, tuple(parts))
        return carrier.carry(arguments[0], arguments[1:last], arguments[last:], gradient)

    arguments = [reader.op.outputs[0], *inputs, *kept, *shapes]
    if outlines is None:
        return body(arguments)
    forms = tuple(
        (structure(r, r.kept), structure(r, (r.cone.expr,)), r.compiled)
        for r in (t.residual for t in takes)
    )
    key = reader.op_type, _attributes(reader), tuple(places), forms
    others = (1 + i for i in range(len(inputs)) if not any(i in own for own in places))
    return outlines.call(key, arguments, [*others, *range(first, last)], body)


def _attributes(node: Node) -> tuple[tuple[str, bytes], ...]:
    """What tells ops of one type apart, so that their gradients differ."""
    given = attributes.of(node).items()
    return tuple(sorted((k, a.SerializeToString()) for k, a in given if not k.startswith("_")))


@dataclasses.dataclass(frozen=True)
class _Part:
    """How one input is computed again.

    Attributes:
        residual: The cone whose result it is.
        places: Which of the op's inputs are that result.
        again: A function from the kept tensors to the result; `None` if plain ops compute it.
    """

    residual: Residual
    places: tuple[int, ...]
    again: Any = None


@dataclasses.dataclass(frozen=True)
class _Gradient:
    """The gradient of an op that reads results of cones.

    Attributes:
        reader: The op.
        parts: Its inputs that are computed again.
    """

    reader: Node
    parts: tuple[_Part, ...]

    def __call__(
        self, cotangent: tf.Tensor, carried: Sequence[tf.Tensor], shapes: Sequence[tf.Tensor]
    ) -> list[tf.Tensor | None]:
        """Computes the cotangents of the op's inputs.

        Args:
            cotangent: That of its result.
            carried: Its inputs, and what is kept of the cones.
            shapes: The shapes of the inputs that are computed again.

        Returns:
            The cotangents; shorter than `carried`, as what is kept has none.
        """
        count = len(self.reader.inputs)
        inputs, rest, sizes = list(carried[:count]), iter(carried[count:]), iter(shapes)
        for part in self.parts:
            kept = [next(rest) for _ in part.residual.kept]
            with tf.control_dependencies([cotangent]):
                result = part.again(*kept)[0] if part.again else copy(part.residual, kept)
            for place in part.places:
                static = inputs[place].shape
                inputs[place] = tf.reshape(result, next(sizes))
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
