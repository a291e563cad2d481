"""A read-only view of a traced `FuncGraph`: nodes, values, storage and bytes.

Everything after tracing works on this view: `plan/` never sees a TensorFlow graph, so a plan can be
tested, printed and thrown away without having touched one.

Uses private TensorFlow API, checked on 2.18 to 2.21: `Operation._is_stateful`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from nested_fad_tf.graph.constants import made_of_constants
from nested_fad_tf.graph.devices import on_cpu
from nested_fad_tf.graph.nodes import Node, Value, aliased_input
from nested_fad_tf.graph.scratch import Scratch
from nested_fad_tf.graph.sizes import NOMINAL, Shape, output_in_bytes
from nested_fad_tf.ops import parts, views

# What takes as few bytes is a scalar or the like: graphs are full of the same few.
_SMALL_PROTO = 64


def in_order(operations: Sequence[tf.Operation]) -> list[tf.Operation]:
    """Sorts operations so that each comes after what it reads and waits for.

    They nearly always are in order of creation. Not so where a loop is differentiated: the loop,
    an op made in the forward pass, gets accumulators as further inputs later.

    Args:
        operations: All operations of a graph, in order of creation.

    Returns:
        The operations, in order of creation as far as dependences allow.
    """
    done: set[tf.Operation] = set()
    ordered: list[tf.Operation] = []
    for start in operations:
        stack = [] if start in done else [start]
        while stack:
            op = stack[-1]
            missing = [t.op for t in op.inputs if t.op not in done]
            missing += [other for other in op.control_inputs if other not in done]
            if missing:
                stack += missing
                continue
            stack.pop()
            if op not in done:
                done.add(op)
                ordered.append(op)
    return ordered


class GraphView:
    """The nodes and values of one traced function.

    Attributes:
        name: The function's name.
        nodes: Its nodes, in order of creation as far as data and control edges allow.
        values: Its values, by id.
        outputs: The values that the function returns, in order.
        arguments: Ids of the placeholders' values: arguments and captures, alive anyway.
        nominal: What an unknown dimension was taken to be.
        compiled: Whether XLA compiles the whole function: it fuses what is element-wise by itself,
            and control dependencies between pure ops mean nothing to it.
        op_count: How many ops the function has.
    """

    def __init__(self, name: str, nominal: int, *, compiled: bool = False) -> None:
        """Makes an empty view; `from_func_graph` is what fills it."""
        self.name = name
        self.nominal = nominal
        self.compiled = compiled
        self.nodes: list[Node] = []
        self.values: list[Value] = []
        self.outputs: list[Value] = []
        self.arguments: set[int] = set()
        self.op_count = 0
        self.control_outputs: list[Node] = []
        self._stateful: dict[str, bool] = {}  # by op type
        self._scratch = Scratch(compiled=compiled)
        self._constants: dict[int, np.ndarray | None] = {}
        self._consumers: list[list[tuple[Node, int]]] | None = None
        self._live: list[bool] | None = None

    @classmethod
    def from_func_graph(
        cls, graph: Any, nominal: int | None = None, *, compiled: bool = False
    ) -> GraphView:
        """Reads a traced function graph.

        Args:
            graph: A `FuncGraph`, as `concrete_function.graph` gives it. It is only read.
            nominal: What an unknown dimension is taken to be, in elements; `NOMINAL` by default.
            compiled: Whether XLA compiles the whole function.

        Returns:
            The view.
        """
        view = cls(graph.name, nominal or NOMINAL, compiled=compiled)
        by_tensor: dict[int, Value] = {}
        by_name: dict[str, Node] = {}

        def value_of(tensor: tf.Tensor) -> Value:
            """Tensors are nearly always the objects that their op lists as its outputs."""
            value = by_tensor.get(id(tensor))
            return value or view._output(by_name[tensor.op.name], tensor.value_index)

        operations = in_order(graph.get_operations())
        view.op_count = len(operations)
        for op in operations:
            node = view._new_node(op, [value_of(t) for t in op.inputs])
            by_name[node.name] = node
            part = parts.part_of(
                node.op_type, node.attr, on_cpu=functools.partial(on_cpu, node.device)
            )
            for index, tensor in enumerate(op.outputs):
                if part is None or index != part.output:
                    value = view.add_value(node, index, tensor.dtype, static_shape(tensor))
                    by_tensor[id(tensor)] = value
            if part is not None:
                tensor = op.outputs[part.output]
                by_tensor[id(tensor)] = view._add_part(node, part, tensor)
        for op in operations:
            by_name[op.name].controls = [by_name[c.name] for c in op.control_inputs]
        view.outputs = [value_of(t) for t in graph.outputs if t is not None]
        view.control_outputs = [by_name[op.name] for op in graph.control_outputs]
        return view

    def _new_node(self, op: tf.Operation, inputs: list[Value]) -> Node:
        op_type = op.type
        stateful = self._stateful.get(op_type)
        if stateful is None:
            stateful = self._stateful[op_type] = is_stateful(op)
        node = Node(
            len(self.nodes), op.name, op_type, inputs, device=op.device, op=op, stateful=stateful
        )
        node.scratch = self._scratch.in_bytes(op)
        self.nodes.append(node)
        if op_type in ("Placeholder", "PlaceholderWithDefault"):
            self.arguments.add(len(self.values))
        return node

    def _add_part(self, whole: Node, part: parts.Part, tensor: tf.Tensor) -> Value:
        """Appends a node for an output of a node that the node doesn't list."""
        inputs = [whole.inputs[i] for i in part.inputs]
        inputs += [self._output(whole, i) for i in part.others]
        node = Node(
            len(self.nodes), whole.name, part.op_type, inputs, device=whole.device, op=whole.op
        )
        self.nodes.append(node)
        return self.add_value(node, part.output, tensor.dtype, static_shape(tensor))

    def _output(self, node: Node, index: int) -> Value:
        """An output of the op of a node, also one that another node stands for."""
        following = self.nodes[node.id + 1 : node.id + 2]
        nodes = [node, *(n for n in following if n.op is node.op)]
        return next(v for n in nodes for v in n.outputs if v.index == index)

    def add_value(self, node: Node, index: int, dtype: tf.DType, shape: Shape | None) -> Value:
        """Appends an output to a node, resolving whose storage it shares.

        Args:
            node: The producing node; its inputs must be set.
            index: Which output it is.
            dtype: Its dtype.
            shape: Its static shape.

        Returns:
            The new value.
        """
        value = Value(
            len(self.values),
            node,
            index,
            dtype,
            shape,
            output_in_bytes(node, dtype, shape, self.nominal),
        )
        source = aliased_input(node, index) or self._unchanged_input(node, shape)
        if source is not None:
            value.storage = source.storage
        self.values.append(value)
        node.outputs.append(value)
        return value

    def _unchanged_input(self, node: Node, shape: Shape | None) -> Value | None:
        """The operand of a node that multiplies by one or the like."""
        if node.op_type not in views.NEUTRAL:
            return None
        number, operands = views.NEUTRAL[node.op_type]
        for position in operands:
            operand, other = node.inputs[position], node.inputs[1 - position]
            if operand.shape != () or not operand.dtype.is_floating:
                continue
            if other.shape == shape and other.static and self._number(operand) == number:
                return other
        return None

    def _number(self, scalar: Value) -> np.ndarray | None:
        """A constant, or one less another, as in the exponent of a power's gradient."""
        if scalar.node.op_type != "Sub":
            return self.constant(scalar)
        first, second = map(self.constant, scalar.node.inputs)
        return None if first is None or second is None else first - second

    @property
    def consumers(self) -> Sequence[Sequence[tuple[Node, int]]]:
        """For each value id, the nodes of the graph that read it and at which input."""
        if self._consumers is None:
            self._consumers = [[] for _ in self.values]
            for node in self.nodes:
                for index, value in enumerate(node.inputs):
                    self._consumers[value.id].append((node, index))
        return self._consumers

    def live_readers(self, value: Value) -> list[Node]:
        """The nodes that run and read a value, as often as they read it.

        Args:
            value: A value of the view.

        Returns:
            They, in order of creation.
        """
        return [reader for reader, _ in self.consumers[value.id] if self.live[reader.id]]

    def redirect(self, node: Node, index: int, value: Value) -> None:
        """Lets a node read something else; `share_storage` has to follow.

        Args:
            node: A node of the view.
            index: Which of its inputs.
            value: What it is to read: a value of a node before it.
        """
        node.inputs[index] = value
        self._consumers = self._live = None

    def share_storage(self) -> None:
        """Finds out anew which values are views of others."""
        for value in self.values:
            source = aliased_input(value.node, value.index)
            source = source or self._unchanged_input(value.node, value.shape)
            value.storage = value if source is None else source.storage

    @functools.cached_property
    def made_of_constants(self) -> frozenset[int]:
        """Ids of the nodes that depend on constants alone and could run before anything else."""
        return made_of_constants(self.nodes, *self.edges())

    def edges(self) -> tuple[list[list[Value]], list[list[Node]]]:
        """Per node id what it reads, and what it waits for."""
        return [n.inputs for n in self.nodes], [n.controls for n in self.nodes]

    @property
    def live(self) -> Sequence[bool]:
        """Per node id, whether it runs: TensorFlow removes dead code before it runs a function."""
        if self._live is None:
            self._live = self.reachable(*self.edges())
        return self._live

    def reachable(
        self,
        inputs: Sequence[Sequence[Value]],
        controls: Sequence[Sequence[Node]],
    ) -> list[bool]:
        """What the function's results and effects need.

        Args:
            inputs: What each of the view's nodes reads, and perhaps further ones behind them.
            controls: What each of them waits for.

        Returns:
            For each node whether it runs.
        """
        starts = [v.node for v in self.outputs] + self.control_outputs
        if self.compiled:
            # XLA runs whatever has effects, TensorFlow what is a control output.
            starts += [n for n in self.nodes if n.stateful and n.op_type != "ReadVariableOp"]
        return ancestors(starts, inputs, controls)

    def constant(self, value: Value) -> np.ndarray | None:
        """The contents of a `Const`, if that is what a value is.

        Args:
            value: Any value of the view.

        Returns:
            The array, or `None` when the value is computed.
        """
        if value.node.op_type != "Const":
            return None
        if value.id not in self._constants:
            proto = value.node.attr("value")
            self._constants[value.id] = None if proto is None else as_array(proto)
        return self._constants[value.id]


def static_shape(tensor: tf.Tensor) -> Shape | None:
    """A tensor's static shape as a tuple, `None` for an unknown rank."""
    shape = tensor.shape
    return None if shape.rank is None else tuple(shape.as_list())


def as_array(proto: Any) -> np.ndarray:
    """A constant's contents, whether its attribute is a proto or already an array."""
    if isinstance(proto, np.ndarray):
        return proto
    if proto.ByteSize() > _SMALL_PROTO:
        return tf.make_ndarray(proto)
    return _decoded(proto.SerializeToString())


@functools.lru_cache(maxsize=4096)
def _decoded(proto: bytes) -> np.ndarray:
    array = tf.make_ndarray(tensor_pb2.TensorProto.FromString(proto))
    array.flags.writeable = False  # shared by all who ask
    return array


def is_stateful(op: tf.Operation) -> bool:
    """Whether TensorFlow's registry marks the op as stateful (unknown ops count as stateful)."""
    return bool(op._is_stateful)


def ancestors(
    starts: Iterable[Node], inputs: Sequence[Sequence[Value]], controls: Sequence[Sequence[Node]]
) -> list[bool]:
    """Finds what nodes depend on.

    Args:
        starts: The nodes.
        inputs: Per node id what a node reads.
        controls: What it waits for.

    Returns:
        For each node whether one of `starts` depends on it, or is it.
    """
    found = [False] * len(inputs)
    stack = list(starts)
    while stack:
        node = stack.pop()
        if not found[node.id]:
            found[node.id] = True
            stack += [v.node for v in inputs[node.id] if not found[v.node.id]]
            stack += controls[node.id]
    return found
