"""Gradients of fused chains, stored in the SavedModel so that it trains wherever it is loaded.

A gradient that is registered in this process is traced and stored as a function of its own;
`tf.saved_model.load` registers it again (`RegisteredGradient` in function.proto). What it reads are
arguments of the function that carries it (see emit/outlined.py), stored as `CapturedTensor`s of the
object graph.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import function_pb2

from nested_fad_tf.integrations.saved_model import internals
from nested_fad_tf.integrations.saved_model.library import Library

_PREFIX = "NestedFadGradient"


def store(library: Library, carriers: Iterable[Any]) -> None:
    """Stores functions that carry gradients, with those gradients.

    Args:
        library: The functions of a SavedModel.
        carriers: The functions, as `ConcreteFunction`s.
    """
    used = {g.registered_op_type for g in library.proto.registered_gradients}
    numbers = itertools.count(len(used))
    for carrier in carriers:
        definition = function_pb2.FunctionDef()
        definition.CopyFrom(carrier.function_def)
        for own, op in _by_gradient(carrier.graph).items():
            op_type = next(t for n in numbers if (t := f"{_PREFIX}_{n}") not in used)
            for node in definition.node_def:
                if node.attr["_gradient_op_type"].s == own:
                    node.attr["_gradient_op_type"].s = op_type.encode()
            _store(library, definition, op, own.decode(), op_type)
        library.add(definition)


def _by_gradient(graph: Any) -> dict[bytes, Any]:
    """An op for each registered gradient."""
    found = {}
    for op in graph.get_operations():
        with contextlib.suppress(ValueError):
            found[op.get_attr("_gradient_op_type")] = op
    return found


def _store(library: Library, carrier: Any, op: Any, own: str, op_type: str) -> None:
    gradient = internals.registered_gradient(own)
    # Only the first output has a cotangent; it has the dtype of the first input, since that of a
    # tensor's bits is the tensor's. The loader makes zeros for the others.
    first, *others = op.outputs
    specs = [tf.TensorSpec(first.shape, op.inputs[0].dtype)]
    specs += [tf.TensorSpec(None, t.dtype) for t in others]
    function = tf.function(gradient, autograph=False).get_concrete_function(None, *specs)
    names = (argument.name for argument in carrier.signature.input_arg)
    arguments = dict(zip(map(id, op.graph.inputs), names, strict=True))
    captures = []
    for capture in function.captured_inputs:
        captures.append((capture, len(library.objects.nodes)))
        node = library.objects.nodes.add()
        node.captured_tensor.name = f"{arguments[id(capture)]}:0"
        node.captured_tensor.concrete_function = carrier.signature.name
    definition = function_pb2.FunctionDef()
    definition.CopyFrom(function.function_def)
    definition.signature.name = saved_name = f"__inference_{op_type}_0"
    library.add(definition)
    saved = internals.serialize(function, captures)
    library.objects.concrete_functions[saved_name].CopyFrom(saved)
    library.proto.registered_gradients.add(gradient_func=saved_name, registered_op_type=op_type)
