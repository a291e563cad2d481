"""Applies a rewrite to a `FuncGraph`: the only place where a graph is changed.

Uses private TensorFlow API (checked on 2.21): `Graph._create_op_internal`,
`Operation._update_input`, `Operation._set_device_from_string`. The public `tf.raw_ops` would infer
attributes anew and record on outer tapes; a copy has to be the original, attribute by attribute.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2

from nested_fad_tf.graph.view import Node, Value
from nested_fad_tf.plan.rewrite import Rewrite


def apply(graph: Any, nodes: list[Node], rewrite: Rewrite) -> None:
    """Adds a rewrite's nodes to a graph and redirects readers.

    Args:
        graph: The `FuncGraph` that the rewrite was planned on.
        nodes: The view's nodes, which redirections refer to by id.
        rewrite: What to do.
    """
    made: dict[int, tf.Operation] = {}
    # Clears control dependencies, name scopes and devices left open around the trace.
    with graph.as_default(), tf.control_dependencies(None), tf.name_scope(""):
        for node in rewrite.nodes:
            made[node.id] = _create(graph, node, made)
    for (node_id, index), value in rewrite.redirects.items():
        op = nodes[node_id].op
        assert op is not None, "only traced nodes are redirected"
        op._update_input(index, _tensor(value, made))


def _create(graph: Any, node: Node, made: Mapping[int, tf.Operation]) -> tf.Operation:
    inputs = [_tensor(v, made) for v in node.inputs]
    controls = [made[c.id] if c.id in made else c.op for c in node.controls]
    with tf.control_dependencies(controls) if controls else tf.control_dependencies(None):
        op = graph._create_op_internal(
            node.op_type,
            inputs,
            [v.dtype for v in node.outputs],
            name=node.name,
            attrs=_attributes(node),
            compute_device=False,
        )
    if node.device:
        op._set_device_from_string(node.device)
    return op


def _tensor(value: Value, made: Mapping[int, tf.Operation]) -> tf.Tensor:
    op = made.get(value.node.id, value.node.op)
    assert op is not None, f"{value} is read before it is made"
    return op.outputs[value.index]


def _attributes(node: Node) -> dict[str, attr_value_pb2.AttrValue]:
    if not node.attrs and node.origin is not None and node.origin.op is not None:
        return dict(node.origin.op.node_def.attr)
    return {name: attribute(value) for name, value in node.attrs.items()}


def attribute(value: Any) -> attr_value_pb2.AttrValue:
    """Wraps a Python value as a node attribute.

    Args:
        value: A dtype, an array, a bool, an int, a float, bytes or text.

    Returns:
        The attribute.

    Raises:
        TypeError: If there is no attribute for a value of that type.
    """
    if isinstance(value, tf.DType):
        return attr_value_pb2.AttrValue(type=value.as_datatype_enum)
    if isinstance(value, np.ndarray):
        return attr_value_pb2.AttrValue(tensor=tf.make_tensor_proto(value))
    if isinstance(value, bool):
        return attr_value_pb2.AttrValue(b=value)
    if isinstance(value, int):
        return attr_value_pb2.AttrValue(i=value)
    if isinstance(value, float):
        return attr_value_pb2.AttrValue(f=value)
    if isinstance(value, (bytes, str)):
        return attr_value_pb2.AttrValue(s=tf.compat.as_bytes(value))
    raise TypeError(f"no node attribute holds {value!r}")
