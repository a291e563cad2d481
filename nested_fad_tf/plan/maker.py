"""Adds single ops to a rewrite: casts, reshapes, arithmetic on whole tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.graph.sizes import Shape
from nested_fad_tf.plan.rewrite import RewriteBuilder


class NodeMaker:
    """Adds nodes that are all named after one traced node.

    Args:
        builder: Where the nodes go.
        origin: The traced node.
        suffix: Of all names, before that of the single node.
        controls: What those nodes wait for that read none but values made elsewhere.
    """

    def __init__(
        self,
        builder: RewriteBuilder,
        origin: Node,
        suffix: str = "",
        controls: Sequence[Node] = (),
    ) -> None:
        self._builder = builder
        self._origin = origin
        self._suffix = suffix
        self._controls = controls
        self._made: set[int] = set()  # ids of values that wait already

    def constant(self, array: np.ndarray, suffix: str) -> Value:
        """Adds a constant.

        Args:
            array: Its value and dtype.
            suffix: Of the node's name.

        Returns:
            The constant.
        """
        dtype = tf.as_dtype(array.dtype)
        return self._constant(array, dtype, suffix)

    def number(self, number: float, dtype: tf.DType, suffix: str) -> Value:
        """Adds a scalar constant.

        Args:
            number: Its value.
            dtype: Its dtype.
            suffix: Of the node's name.

        Returns:
            The constant.
        """
        return self._constant(np.array(number, dtype.as_numpy_dtype), dtype, suffix)

    def cast(self, value: Value, dtype: tf.DType, suffix: str) -> Value:
        """Adds a cast.

        Args:
            value: What to cast.
            dtype: To what.
            suffix: Of the node's name.

        Returns:
            The cast value.
        """
        attrs = {"SrcT": value.dtype, "DstT": dtype, "Truncate": False}
        return self.add("Cast", [value], dtype, value.shape, suffix, attrs, like=value)

    def bitcast(self, value: Value, dtype: tf.DType, shape: Shape, suffix: str) -> Value:
        """Adds a cast of the bits.

        Args:
            value: Whose bits to take.
            dtype: What to take them for.
            shape: The shape that results.
            suffix: Of the node's name.

        Returns:
            The value of those bits, in the same buffer.
        """
        return self.add("Bitcast", [value], dtype, shape, suffix, {"T": value.dtype, "type": dtype})

    def reshape(self, value: Value, shape: Value, static: Shape | None, suffix: str) -> Value:
        """Adds a reshape.

        Args:
            value: What to reshape.
            shape: The new shape, a tensor.
            static: The same, as far as it is known.
            suffix: Of the node's name.

        Returns:
            The reshaped value, in the same buffer.
        """
        attrs = {"T": value.dtype, "Tshape": tf.int32}
        return self.add("Reshape", [value, shape], value.dtype, static, suffix, attrs)

    def on_device(self, value: Value, device: str, suffix: str) -> Value:
        """Adds a copy on another device.

        TensorFlow's graph optimizer may drop an Identity between devices, with what it waits for.

        Args:
            value: What to copy; its rank is known.
            device: The device; the empty text for where TensorFlow would place it.
            suffix: Of the node's name.

        Returns:
            The same value there.
        """
        dtype, shape = value.dtype, value.shape
        attrs = {"T": dtype, "shape": tf.TensorShape(shape)}
        return self.add("EnsureShape", [value], dtype, shape, suffix, attrs, value, device)

    def shape_of(self, value: Value, source: Value) -> Value:
        """The shape of a value: a constant where it is known, else read in the forward pass.

        Args:
            value: Whose shape.
            source: What to read it from: a value of that shape.

        Returns:
            The shape, an int32 tensor.
        """
        if value.static:
            return self.constant(np.array(value.shape, np.int32), "/shape")
        rank = None if value.shape is None else len(value.shape)
        attrs = {"T": source.dtype, "out_type": tf.int32}
        # Whatever the others wait for: it would keep the source alive.
        node = self._builder.add(
            "Shape",
            [source],
            [(tf.int32, (rank,))],
            origin=self._origin,
            suffix=self._suffix + "/shape",
            attrs=attrs,
        )
        return node.outputs[0]

    def binary(self, op_type: str, value: Value, operand: Value, suffix: str) -> Value:
        """Adds an element-wise op of two operands.

        Args:
            op_type: The op.
            value: The first operand; gives the shape.
            operand: The second; it is broadcast.
            suffix: Of the node's name.

        Returns:
            The result.
        """
        attrs = {"T": value.dtype}
        shape = value.shape
        return self.add(op_type, [value, operand], value.dtype, shape, suffix, attrs, like=value)

    def add(
        self,
        op_type: str,
        inputs: Sequence[Value],
        dtype: tf.DType,
        shape: Shape | None,
        suffix: str,
        attrs: Mapping[str, Any],
        like: Value | None = None,
        device: str | None = None,
    ) -> Value:
        """Adds a node of one output.

        Args:
            op_type: Its op type.
            inputs: What it reads.
            dtype: Of its output.
            shape: Of its output.
            suffix: Of its name.
            attrs: Its attributes.
            like: A value of as many elements: where dimensions are unknown the shape doesn't tell.
            device: As for `RewriteBuilder.add`.

        Returns:
            Its output.
        """
        controls = () if any(v.id in self._made for v in inputs) else self._controls
        node = self._builder.add(
            op_type,
            inputs,
            [(dtype, shape)],
            origin=self._origin,
            suffix=self._suffix + suffix,
            attrs=attrs,
            controls=controls,
            device=device,
        )
        made = node.outputs[0]
        self._made.add(made.id)
        if like is not None:
            made.nbytes = like.nbytes // like.dtype.size * dtype.size
        return made

    def _constant(self, array: np.ndarray, dtype: tf.DType, suffix: str) -> Value:
        return self._builder.constant(
            array, dtype, origin=self._origin, suffix=self._suffix + suffix
        )
