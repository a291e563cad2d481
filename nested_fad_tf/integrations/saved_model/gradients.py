"""Gradients of fused chains, stored in the SavedModel so that it trains wherever it is loaded.

A gradient that is registered in this process is traced and stored as a function beside the one that
uses it; `tf.saved_model.load` registers it again (`RegisteredGradient` in function.proto). What it
reads of the forward function are captures, stored as `CapturedTensor`s of the object graph.

Uses private TensorFlow API (checked on 2.21): the gradient registry, and the serialization of
concrete functions.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow.python.framework import ops
from tensorflow.python.saved_model import function_serialization
from tensorflow.python.util import object_identity

from nested_fad_tf.errors import RewriteError
from nested_fad_tf.integrations.saved_model.library import Library

PREFIX = "NestedFad"


def store(library: Library, name: str, known: set[Any]) -> dict[str, str]:
    """Stores the gradients of the ops that a rewrite added to a function.

    Args:
        library: The functions of a SavedModel.
        name: The function.
        known: Ops that it had before.

    Returns:
        How the gradients are called in the file, by what they are called in this process.
    """
    graph = library.functions[name].graph
    stored: dict[str, str] = {}
    used = {g.registered_op_type for g in library.proto.registered_gradients}
    for op in graph.get_operations():
        own = _gradient_type(op)
        if own is None or op in known or own in stored:
            continue
        stored[own] = _unused(f"{PREFIX}Gradient", used)
        _store(library, name, op, own, stored[own])
    return stored


def _gradient_type(op: Any) -> str | None:
    try:
        value: bytes = op.get_attr("_gradient_op_type")
    except ValueError:
        return None
    return value.decode()


def _unused(stem: str, used: set[str]) -> str:
    name = next(n for i in range(len(used) + 1) if (n := f"{stem}_{i}") not in used)
    used.add(name)
    return name


def _store(library: Library, name: str, op: Any, own: str, op_type: str) -> None:
    gradient = ops.gradient_registry.lookup(own)
    # Only the first output has a cotangent. The loader makes zeros for the others, of their shape
    # if it is known.
    first, *others = op.outputs
    specs = [tf.TensorSpec(first.shape, _dtype_of_cotangent(op))]
    specs += [tf.TensorSpec(None, t.dtype) for t in others]
    function = tf.function(gradient, autograph=False).get_concrete_function(None, *specs)
    saved_name = f"__inference_{op_type}_0"
    library.add(function, saved_name)
    node_ids = object_identity.ObjectIdentityDictionary()
    for capture in function.captured_inputs:
        if getattr(capture, "graph", None) is not op.graph:
            raise RewriteError(f"the gradient of {op.name} reads {capture}, which isn't saved")
        node_ids[capture] = len(library.objects.nodes)
        node = library.objects.nodes.add()
        node.captured_tensor.name = capture.name
        node.captured_tensor.concrete_function = name
    library.objects.concrete_functions[saved_name].CopyFrom(
        function_serialization.serialize_concrete_function(function, node_ids)
    )
    library.proto.registered_gradients.add(gradient_func=saved_name, registered_op_type=op_type)


def _dtype_of_cotangent(op: Any) -> tf.DType:
    """The cotangent of a tensor's bits is the tensor's own: see emit/residuals.py."""
    return op.inputs[0].dtype
