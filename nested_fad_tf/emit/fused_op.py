"""Fused ops: a group of element-wise nodes as one compiled function.

Structurally equal groups share a function, so that a network of equal layers compiles each kind of
group once. Calls to a function are differentiable to any order by TensorFlow's own machinery, which
differentiates the body.

Uses private TensorFlow API (checked on 2.21): `Graph._create_op_internal`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2

from nested_fad_tf.emit import attributes
from nested_fad_tf.graph import tracing
from nested_fad_tf.graph.view import Node, Value
from nested_fad_tf.plan.rewrite import Group

# Reads of a node's inputs, redirections applied.
Inputs = Sequence[Sequence[Value]]


class FusedOps:
    """Makes functions for groups, one for each distinct structure.

    Args:
        inputs: For each node id what it reads.
        compiled: Whether XLA compiles the functions.
    """

    def __init__(self, inputs: Inputs, compiled: bool) -> None:
        self._inputs = inputs
        self._compiled = compiled
        self._functions: dict[Any, Any] = {}

    @property
    def distinct(self) -> int:
        """How many functions were made."""
        return len(self._functions)

    def call(self, group: Group, arguments: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Adds a call to the current graph.

        Args:
            group: The group.
            arguments: A tensor for each of its inputs.

        Returns:
            A tensor for each of its outputs.
        """
        key = self._key(group)
        if key not in self._functions:
            self._functions[key] = self._trace(group)
        outputs = self._functions[key](*arguments)
        for tensor, value in zip(outputs, group.outputs, strict=True):
            tensor.set_shape(value.shape)
        return list(outputs)

    def _key(self, group: Group) -> Any:
        """A hashable description of the group's structure: equal keys, equal functions."""
        place = {v.id: ("in", i) for i, v in enumerate(group.inputs)}
        lines: list[Any] = []
        for node in (*group.embedded, *group.nodes):
            reads = tuple(place[v.id] for v in self._inputs[node.id])
            attrs = tuple(sorted((k, a.SerializeToString()) for k, a in _attrs(node).items()))
            place[node.outputs[0].id] = ("node", len(lines))
            lines.append((node.op_type, reads, attrs))
        arguments = tuple((v.dtype, v.shape) for v in group.inputs)
        return arguments, tuple(lines), tuple(place[v.id] for v in group.outputs)

    def _trace(self, group: Group) -> Any:
        def body(*arguments: tf.Tensor) -> list[tf.Tensor]:
            made = {v.id: t for v, t in zip(group.inputs, arguments, strict=True)}
            graph: Any = tf.compat.v1.get_default_graph()
            for node in (*group.embedded, *group.nodes):
                op = graph._create_op_internal(
                    node.op_type,
                    [made[v.id] for v in self._inputs[node.id]],
                    [v.dtype for v in node.outputs],
                    name=node.name.rpartition("/")[2],
                    attrs=dict(_attrs(node)),
                )
                made[node.outputs[0].id] = op.outputs[0]
            return [made[v.id] for v in group.outputs]

        body.__name__ = _function_name(group)
        signature = [tf.TensorSpec(v.shape, v.dtype) for v in group.inputs]
        # The rewriter must not see its own functions.
        with tracing.observing(None):
            function = tf.function(
                body,
                input_signature=signature,
                jit_compile=self._compiled or None,
                autograph=False,
            )
            return function.get_concrete_function()


def _attrs(node: Node) -> Mapping[str, attr_value_pb2.AttrValue]:
    """Attributes that belong to the op; colocation and the like don't survive the move."""
    return {k: a for k, a in attributes.of(node).items() if not k.startswith("_")}


def _function_name(group: Group) -> str:
    """Tells in a profile what is inside: the ops, shortened."""
    kinds = [node.op_type for node in group.nodes]
    shown = "_".join(kinds[:4]) + (f"_and_{len(kinds) - 4}_more" if len(kinds) > 4 else "")
    return f"nested_fad_{shown}"
