"""Node attributes as TensorFlow's protos."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2

from nested_fad_tf.graph.nodes import Node


def of(node: Node) -> Mapping[str, attr_value_pb2.AttrValue]:
    """A node's attributes: those it was made with, else those of the traced op it copies.

    Args:
        node: A traced or an added node.

    Returns:
        The attributes by name.
    """
    if node.attrs is not None:
        return {name: attribute(value) for name, value in node.attrs.items()}
    source = node.traced.op
    assert source is not None, f"{node} has neither attributes nor an original"
    return source.node_def.attr


def attribute(value: Any) -> attr_value_pb2.AttrValue:
    """Wraps a Python value as a node attribute.

    Args:
        value: A dtype, a list of dtypes, a shape, an array, a bool, an int, a float, bytes or text.

    Returns:
        The attribute.

    Raises:
        TypeError: If there is no attribute for a value of that type.
    """
    if isinstance(value, tf.DType):
        return attr_value_pb2.AttrValue(type=value.as_datatype_enum)
    if isinstance(value, list):
        kinds = attr_value_pb2.AttrValue.ListValue(type=[t.as_datatype_enum for t in value])
        return attr_value_pb2.AttrValue(list=kinds)
    if isinstance(value, tf.TensorShape):
        return attr_value_pb2.AttrValue(shape=value.as_proto())
    if isinstance(value, np.ndarray):
        return attr_value_pb2.AttrValue(tensor=tf.make_tensor_proto(value))
    if isinstance(value, bool):
        return attr_value_pb2.AttrValue(b=value)
    if isinstance(value, int):
        return attr_value_pb2.AttrValue(i=value)
    if isinstance(value, float):
        return attr_value_pb2.AttrValue(f=value)
    if isinstance(value, bytes | str):
        return attr_value_pb2.AttrValue(s=tf.compat.as_bytes(value))
    raise TypeError(f"no node attribute holds {value!r}")
