"""Applies a rewrite to a `FuncGraph`: the only place where a graph is changed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from nested_fad_tf.emit import attributes, primitives
from nested_fad_tf.emit.barrier import tie
from nested_fad_tf.emit.fused_op import FusedOps
from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.graph.simplify import Redirect
from nested_fad_tf.plan.gates import BARRIER
from nested_fad_tf.plan.peak import Lifetimes
from nested_fad_tf.plan.rewrite import Group
from nested_fad_tf.plan.schedule import Step


def apply(graph: Any, simulated: Lifetimes, *, compiled: bool) -> Callable[[Value], tf.Tensor]:
    """Adds a rewrite's nodes and groups to a graph and redirects readers.

    Args:
        graph: The `FuncGraph` that the rewrite was planned on.
        simulated: The rewrite as it ran on paper: new ops are made in that order.
        compiled: Whether XLA compiles the groups.

    Returns:
        Gives the tensor that holds a value now; those inside of a group have none.
    """
    edit = _Edit(graph, simulated, compiled)
    edit.run()
    return edit.tensor


def redirect(redirects: Sequence[Redirect]) -> None:
    """Changes inputs of a graph as those of its view were changed.

    Args:
        redirects: What was changed.
    """
    for item in redirects:
        source = item.value.node.op
        assert source is not None
        primitives.redirect(item.node.op, item.index, source.outputs[item.value.index])


class _Edit:
    def __init__(self, graph: Any, simulated: Lifetimes, compiled: bool) -> None:
        self._graph = graph
        self._steps = simulated.steps
        self._wiring = simulated.wiring
        self._traced = len(self._wiring.view.nodes)
        self._fused = FusedOps(self._wiring, compiled)
        self._made: dict[int, tf.Operation] = {}  # node id -> op that runs it now
        self._tensors: dict[int, tf.Tensor] = {}  # value id -> output of a group or barrier

    def run(self) -> None:
        # Clears control dependencies and name scopes left open around the trace.
        with self._graph.as_default(), tf.control_dependencies(None), tf.name_scope(""):
            for step in self._steps:
                group = self._fused_by(step)
                if group is not None:
                    self._call(step, group)
                else:
                    self._make(step.nodes)
        for step in self._steps:
            if self._fused_by(step) is None:
                self._redirect(step.nodes)
        for node_id in self._wiring.rewrite.pinned:
            primitives.run_on_cpu(self._wiring.nodes[node_id].op)

    def _fused_by(self, step: Step) -> Group | None:
        """The group that a step is to run as; what XLA fuses by itself was only simulated."""
        return None if self._wiring.view.compiled else step.group

    def _make(self, nodes: Sequence[Node]) -> None:
        """Makes those that weren't traced."""
        for node in nodes:
            if node.id < self._traced:
                continue
            if node.op_type == BARRIER:
                self._tie(node)
            else:
                self._made[node.id] = self._create(node)

    def _create(self, node: Node) -> tf.Operation:
        with _after([self._op(c) for c in self._wiring.controls[node.id]]):
            return primitives.create(
                self._graph,
                node.op_type,
                [self.tensor(v) for v in self._wiring.inputs[node.id]],
                [v.dtype for v in node.outputs],
                attributes.of(node),
                name=node.name,
                device=node.device or "",
            )

    def _call(self, step: Step, group: Group) -> None:
        waits = [self._op(wait.node) for wait in step.waits]
        arguments = [self.tensor(v) for v in group.inputs]
        last = group.nodes[-1]
        name = last.name if last.id >= self._traced else f"nested_fad/{last.name}"
        with _after(waits), tf.name_scope(f"{name}/fused"):
            outputs = self._fused.call(group, arguments, last.device)
        for value, tensor in zip(group.outputs, outputs, strict=True):
            self._tensors[value.id] = tensor
        for node in group.nodes:
            self._made[node.id] = outputs[0].op

    def _tie(self, barrier: Node) -> None:
        *values, cotangent = (self.tensor(v) for v in self._wiring.inputs[barrier.id])
        with tf.name_scope(barrier.name):
            tied = tie(self._graph, values, cotangent)
        for value, tensor in zip(barrier.outputs, (*tied, cotangent), strict=True):
            self._tensors[value.id] = tensor
        self._made[barrier.id] = tied[-1].op

    def _redirect(self, nodes: Sequence[Node]) -> None:
        """Lets those that were traced read and wait for what they are to."""
        for node in nodes:
            if node.id < self._traced:
                self._redirect_op(node)

    def _redirect_op(self, node: Node) -> None:
        op = node.op
        assert op is not None
        for index, (now, then) in enumerate(
            zip(self._wiring.inputs[node.id], node.inputs, strict=True)
        ):
            if now is not then or now.id in self._tensors:
                primitives.redirect(op, index, self.tensor(now))
        controls = self._wiring.controls[node.id]
        if len(controls) != len(node.controls) or any(c.id in self._made for c in controls):
            primitives.wait_for(op, list(dict.fromkeys(map(self._op, controls))))

    def _op(self, node: Node) -> tf.Operation:
        """The op that runs a node now."""
        op = self._made.get(node.id, node.op)
        assert op is not None, f"{node} is waited for before it is made"
        return op

    def tensor(self, value: Value) -> tf.Tensor:
        """The tensor that holds a value now."""
        if value.id in self._tensors:
            return self._tensors[value.id]
        return self._op(value.node).outputs[value.index]


def _after(ops: Sequence[tf.Operation]) -> contextlib.AbstractContextManager[None]:
    """A scope whose ops wait for others; entering one that doesn't takes time."""
    return tf.control_dependencies(ops) if ops else contextlib.nullcontext()
