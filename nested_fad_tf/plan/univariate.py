"""Values that depend, element by element, on one other value: tabulated by running their ops.

`tf.nn.gelu` is half a dozen element-wise ops with numbers, so that what they compute is a function
of one number, and so is its derivative. Their ops are run on a row of numbers, in float64, rather
than read: no table of known activations is needed.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.ops import elementwise, views
from nested_fad_tf.ops.expr import Apply, Const, Expr, Leaf, subexpressions
from nested_fad_tf.plan.sources import values_of

_UNCHANGED = views.PAIRWISE_ALIASES | {"Identity", "StopGradient"}
# Takes a list, unlike all others.
_NOT_RUN = frozenset({"AddN"})


class Univariate:
    """The values of a graph that are functions of one other.

    Args:
        view: The graph.
    """

    def __init__(self, view: GraphView) -> None:
        self._view = view
        self._sources: dict[int, Value | None] = {}  # by value id; `None` for numbers
        self._of: dict[Expr, Sequence[Value]] = {}
        for node in view.nodes:
            for value in node.outputs:
                self._sources[value.id] = self._find(node, value)

    def source(self, derivative: Expr) -> Value | None:
        """What an expression is a function of.

        Args:
            derivative: An expression over values.

        Returns:
            The value of the graph, as far back as numbers alone come in between; `None` if there
            is not exactly one.
        """
        for part in subexpressions(derivative):
            if part not in self._of:
                self._of[part] = self._sources_of(part)
        found = self._of[derivative]
        return found[0] if len(found) == 1 else None

    def _sources_of(self, part: Expr) -> Sequence[Value]:
        """What a part of an expression is a function of; two stand for more."""
        if isinstance(part, Apply):
            found = [v for arg in part.args for v in self._of[arg]]
        else:
            found = [v for leaf in values_of(part) if (v := self._sources[leaf.id]) is not None]
        return tuple({v.id: v for v in found}.values())[:2]

    def tabulate(self, derivative: Expr, source: Value, numbers: np.ndarray) -> np.ndarray:
        """Evaluates an expression.

        Args:
            derivative: The expression.
            source: What it is a function of.
            numbers: Values of that, float64, of shape [n].

        Returns:
            Its values, float64, of shape [n].
        """
        with tf.init_scope(), tf.device("CPU:0"):
            results: dict[int, Any] = {source.id: tf.constant(numbers, tf.float64)}
            for node in self._between(derivative, source):
                for value in node.outputs:
                    results[value.id] = self._run(node, value.index, results)
            made: dict[Expr, Any] = {}
            for part in subexpressions(derivative):
                made[part] = _evaluate(part, made, results)
            return np.broadcast_to(made[derivative].numpy(), numbers.shape).astype(np.float64)

    def _find(self, node: Node, value: Value) -> Value | None:
        if node.op_type == "Const":
            return None if value.shape == () else value
        if node.op_type in _UNCHANGED:
            return self._sources[node.inputs[value.index].id]
        known = node.op_type in elementwise.TABLE and node.op_type not in _NOT_RUN
        if node.stateful or len(node.outputs) != 1 or not known:
            return value
        sources = {self._sources[v.id] for v in node.inputs} - {None}
        if not sources:
            return None
        source = sources.pop()
        assert source is not None
        same = source.shape is not None and source.shape == value.shape
        return source if not sources and same and source.dtype.is_floating else value

    def _between(self, derivative: Expr, source: Value) -> list[Node]:
        """The nodes that lead from the source to an expression's leaves, in order."""
        found: dict[int, Node] = {}
        stack = [v.node for v in values_of(derivative)]
        while stack:
            node = stack.pop()
            if node is not source.node and node.id not in found:
                found[node.id] = node
                stack.extend(v.node for v in node.inputs)
        return [found[id] for id in sorted(found)]

    def _run(self, node: Node, index: int, results: Mapping[int, Any]) -> Any:
        if node.op_type == "Const":
            array = self._view.constant(node.outputs[0])
            assert array is not None
            return tf.constant(array, _widest(tf.as_dtype(array.dtype)))
        read = [results[v.id] for v in node.inputs]
        if node.op_type in _UNCHANGED:
            return read[index]
        return _raw_op(node.op_type, read, node.attr)


def _evaluate(part: Expr, made: Mapping[Expr, Any], results: Mapping[int, Any]) -> Any:
    if isinstance(part, Leaf):
        assert isinstance(part.key, Value)
        return results[part.key.id]
    if isinstance(part, Const):
        return tf.constant(part.number, tf.float64)
    assert isinstance(part, Apply)
    return _raw_op(part.op_type, [made[a] for a in part.args], dict(part.attrs).get)


def _raw_op(op_type: str, read: list[Any], attr: Any) -> Any:
    op = getattr(tf.raw_ops, op_type)
    names = [name for name in inspect.signature(op).parameters if name != "name"]
    attrs = {name: attr(name) for name in names[len(read) :]}
    attrs = {name: value for name, value in attrs.items() if value is not None}
    if "DstT" in attrs:
        attrs["DstT"] = _widest(attrs["DstT"])
    return op(**dict(zip(names, read, strict=False)), **attrs)


def _widest(dtype: tf.DType) -> tf.DType:
    return tf.float64 if dtype.is_floating else dtype
