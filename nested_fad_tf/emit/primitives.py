"""Ops made and changed one by one, for which TensorFlow has no public API.

The public ops would infer attributes anew and record on tapes that are open around the trace; a
copy has to be the original, attribute by attribute.

Uses private TensorFlow API, checked on 2.18 to 2.21: `Graph._create_op_internal`,
`Operation._update_input`, `_add_control_inputs`, `_remove_all_control_inputs`, `_set_attr`,
`_clear_attr` and `_set_device_from_string`, the registry of gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2

from nested_fad_tf.graph import devices, versions


def create(
    graph: Any,
    op_type: str,
    inputs: Sequence[tf.Tensor],
    dtypes: Sequence[tf.DType],
    attrs: Mapping[str, attr_value_pb2.AttrValue],
    *,
    name: str | None = None,
    device: str | None = None,
) -> tf.Operation:
    """Adds an op.

    Args:
        graph: The graph; it is the default graph.
        op_type: The type of the op.
        inputs: What it reads.
        dtypes: Of its outputs.
        attrs: Its attributes.
        name: Its name within the current scope, made unique; the type if there is none.
        device: Where it runs, empty for anywhere; `None` for where ops of the current scope run.

    Returns:
        The op.
    """
    op = graph._create_op_internal(
        op_type,
        list(inputs),
        list(dtypes),
        name=name,
        attrs=dict(attrs),
        compute_device=device is None,
    )
    if device:
        op._set_device_from_string(device)
    return op


def redirect(op: Any, index: int, tensor: tf.Tensor) -> None:
    """Lets an op read another tensor.

    Args:
        op: The op.
        index: Which of its inputs.
        tensor: What to read there.
    """
    op._update_input(index, tensor)


def wait_for(op: Any, others: Sequence[tf.Operation]) -> None:
    """Replaces the ops that an op waits for without reading them.

    Args:
        op: The op.
        others: What it is to wait for, and nothing else.
    """
    op._remove_all_control_inputs()
    op._add_control_inputs(list(others))


def run_on_cpu(op: Any) -> None:
    """Lets an op ask for a CPU, if it asks for no kind of device.

    Args:
        op: The op.
    """
    op._set_device_from_string(devices.with_cpu(op.device))


def gradient_function(op_type: str) -> Any:
    """The gradient that TensorFlow has for an op.

    Args:
        op_type: Its type.

    Returns:
        A function from the op and the cotangents of its outputs to those of its inputs.
    """
    return versions.private("framework.ops").gradient_registry.lookup(op_type)


def set_attribute(op: Any, name: str, value: attr_value_pb2.AttrValue) -> None:
    """Sets an attribute of an op that exists.

    Args:
        op: The op.
        name: The attribute.
        value: Its value.
    """
    op._set_attr(name, value)


def clear_attribute(op: Any, name: str) -> None:
    """Removes an attribute of an op.

    Args:
        op: The op.
        name: The attribute.
    """
    op._clear_attr(name)
