"""Functions made op by op.

Uses private TensorFlow API, checked on 2.18 to 2.21: `FuncGraph`, and
`ConcreteFunction.from_func_graph` with `derive_from_graph`, since tracing a `tf.function` takes
several times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2

from nested_fad_tf.emit import attributes, primitives
from nested_fad_tf.graph import versions
from nested_fad_tf.graph.calls import MUST_COMPILE

_PREFIX = "nested_fad_"


def build(
    name: str,
    specs: Sequence[tf.TensorSpec],
    body: Callable[[Sequence[tf.Tensor]], Sequence[tf.Tensor]],
    *,
    compiled: bool,
) -> Any:
    """Makes a function.

    Args:
        name: What it is called in a profile, behind a prefix.
        specs: Dtypes and shapes of its arguments.
        body: Adds its ops to the current graph: from its arguments to its results.
        compiled: Whether XLA compiles it.

    Returns:
        The `ConcreteFunction`.
    """
    graph = versions.private("framework.func_graph").FuncGraph(_PREFIX + name)
    with graph.as_default():
        graph.inputs = [_placeholder(graph, spec) for spec in specs]
        graph.outputs = list(body(graph.inputs))
    graph.structured_outputs = tuple(graph.outputs)
    attrs = {MUST_COMPILE: True} if compiled else {}
    function_type_utils = versions.private("eager.polymorphic_function.function_type_utils")
    function_type = function_type_utils.derive_from_graph(graph)
    concrete_function = versions.private("eager.polymorphic_function.concrete_function")
    return concrete_function.ConcreteFunction.from_func_graph(graph, function_type, attrs)


def is_made(name: str) -> bool:
    """Whether a function in a graph's library was made here, in this process or before.

    Args:
        name: The function's name.
    """
    return name.startswith(f"__inference_{_PREFIX}")


def _placeholder(graph: Any, spec: tf.TensorSpec) -> tf.Tensor:
    shape = attr_value_pb2.AttrValue(shape=spec.shape.as_proto())
    attrs = {"dtype": attributes.attribute(spec.dtype), "shape": shape}
    (tensor,) = primitives.create(graph, "Placeholder", [], [spec.dtype], attrs).outputs
    return tensor
