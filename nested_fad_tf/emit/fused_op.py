"""Fused ops: a group of element-wise nodes as one compiled function.

Structurally equal groups share a function, so that a network of equal layers compiles each kind of
group once. Calls to a function are differentiable to any order by TensorFlow's own machinery, which
differentiates the body.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2

from nested_fad_tf.emit import body, function, primitives
from nested_fad_tf.plan.rewrite import Group
from nested_fad_tf.plan.wiring import Wiring

# Attribute of a call: the names of the ops that were fused, in the order of the function's body.
# Equal groups share a function, so its own names tell nothing of layers.
ORIGINS = "_nested_fad_origins"

# Attribute of a call, while it is made: it spares TensorFlow looking for the shapes of its results.
# They are known, and every time it copies all that it knows of constants in the graph.
_UNSHAPED = "_disable_call_shape_inference"


class FusedOps:
    """Makes functions for groups, one for each distinct structure.

    Args:
        wiring: The graph that the groups belong to.
        compiled: Whether XLA compiles the functions.
    """

    def __init__(self, wiring: Wiring, compiled: bool) -> None:
        self._wiring = wiring
        self._compiled = compiled
        self._first_calls: dict[Any, tf.Operation] = {}

    @property
    def distinct(self) -> int:
        """How many functions were made."""
        return len(self._first_calls)

    def call(
        self, group: Group, arguments: Sequence[tf.Tensor], device: str = ""
    ) -> list[tf.Tensor]:
        """Adds a call to the current graph.

        Args:
            group: The group.
            arguments: A tensor for each of its inputs.
            device: Where it is to run, empty for anywhere.

        Returns:
            A tensor for each of its outputs.
        """
        steps = body.steps(group, self._wiring)
        key = _key(group, steps)
        if key in self._first_calls:
            outputs = self._call_again(self._first_calls[key], group, arguments, device)
        else:
            with tf.device(device or None):
                outputs = list(self._build(group, steps)(*arguments))
            self._first_calls[key] = outputs[0].op
        for tensor, value in zip(outputs, group.outputs, strict=True):
            tensor.set_shape(value.shape)
        names = [step.name.encode() for step in steps]
        origins = attr_value_pb2.AttrValue.ListValue(s=names)
        primitives.set_attribute(outputs[0].op, ORIGINS, attr_value_pb2.AttrValue(list=origins))
        return outputs

    def _call_again(
        self, first: tf.Operation, group: Group, arguments: Sequence[tf.Tensor], device: str
    ) -> list[tf.Tensor]:
        """Copies a call: its attributes name the function and how it is differentiated."""
        attrs = {k: a for k, a in first.node_def.attr.items() if k != "_class"}
        attrs[_UNSHAPED] = attr_value_pb2.AttrValue(b=True)
        dtypes = [v.dtype for v in group.outputs]
        call = primitives.create(first.graph, first.type, arguments, dtypes, attrs, device=device)
        primitives.clear_attribute(call, _UNSHAPED)
        return call.outputs

    def _build(self, group: Group, steps: Sequence[body.Step]) -> Any:
        def add_ops(arguments: Sequence[tf.Tensor]) -> list[tf.Tensor]:
            graph: Any = tf.compat.v1.get_default_graph()
            made = {v.id: t for v, t in zip(group.inputs, arguments, strict=True)}
            for step in steps:
                op = primitives.create(
                    graph,
                    step.op_type,
                    [made[read] for read in step.reads],
                    [step.dtype],
                    step.attrs,
                    name=step.name.rpartition("/")[2],
                )
                made[step.result] = op.outputs[0]
            return [made[v.id] for v in group.outputs]

        specs = [tf.TensorSpec(v.shape, v.dtype) for v in group.inputs]
        return function.build(_function_name(group), specs, add_ops, compiled=self._compiled)


def _key(group: Group, steps: Sequence[body.Step]) -> Any:
    """A hashable description of the group's structure: equal keys, equal functions."""
    place = {v.id: ("in", i) for i, v in enumerate(group.inputs)}
    lines: list[Any] = []
    for step in steps:
        reads = tuple(place[read] for read in step.reads)
        attrs = tuple(sorted((k, a.SerializeToString()) for k, a in step.attrs.items()))
        place[step.result] = ("step", len(lines))
        lines.append((step.op_type, reads, attrs))
    arguments = tuple((v.dtype, v.shape) for v in group.inputs)
    return arguments, tuple(lines), tuple(place[v.id] for v in group.outputs)


def _function_name(group: Group) -> str:
    """Tells in a profile what is inside: the ops, shortened."""
    kinds = [node.op_type for node in group.nodes]
    return "_".join(kinds[:4]) + (f"_and_{len(kinds) - 4}_more" if len(kinds) > 4 else "")
