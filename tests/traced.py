"""Traced functions and what the planner sees of them, for tests of its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context

from nested_fad_tf.graph.nodes import Node
from nested_fad_tf.graph.roles import find_roles
from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.plan.candidates import Candidates, find_candidates
from nested_fad_tf.plan.prices import Prices

# Tensors of SIDE x SIDE floats: just large enough for the executor to count their ops as dear.
SIDE = 128
SIZE = SIDE * SIDE * 4
SQUARE = tf.TensorSpec([SIDE, SIDE])


def trace(step: Callable[..., Any], *specs: Any) -> Any:
    """The graph of a step as `tf.function` traces it."""
    return tf.function(step).get_concrete_function(*specs).graph


def gelu_by_erfc() -> bool:
    """Whether `tf.nn.gelu` is computed by `erfc`, as since 2.19; by `erf`, in fewer ops, before."""
    return any(op.type == "Erfc" for op in trace(tf.nn.gelu, SQUARE).get_operations())


def view_of(step: Callable[..., Any], *specs: Any, nominal: int = 32) -> GraphView:
    return GraphView.from_func_graph(trace(step, *specs), nominal)


def candidates_of(
    step: Callable[..., Any],
    *specs: Any,
    min_bytes: int = 1024,
    fused: bool = False,
    prices: Prices | None = None,
) -> Candidates:
    view = view_of(step, *specs)
    return find_candidates(view, find_roles(view), min_bytes, fused=fused, prices=prices)


def node(view: GraphView, name: str) -> Node:
    """The node of that name, or the only one of that op type."""
    for n in view.nodes:
        if n.name == name:
            return n
    (found,) = nodes(view, name)
    return found


def nodes(view: GraphView, op_type: str) -> list[Node]:
    return [n for n in view.nodes if n.op_type == op_type]


def names(items: Iterable[Any]) -> list[str]:
    return [item.name for item in items]


def optimized_nodes(function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """The nodes that really run, by name, after TensorFlow has optimized and divided the graph."""
    context.context().enable_run_metadata()
    function(*arguments)
    metadata = context.context().export_run_metadata()
    context.context().disable_run_metadata()
    graphs = [g for found in metadata.function_graphs for g in found.partition_graphs]
    return {node.name: node for graph in graphs for node in graph.node}


def numbers(*shape: int, seed: int = 0, scale: float = 1.0) -> tf.Tensor:
    values = np.random.default_rng(seed).standard_normal(shape)
    return tf.constant((scale * values).astype(np.float32))


def mish(x: tf.Tensor) -> tf.Tensor:
    return x * tf.tanh(tf.nn.softplus(x))


def normalized(x: tf.Tensor) -> tf.Tensor:
    """What a layer normalization computes of rows, without its scale and offset."""
    mean, variance = tf.nn.moments(x, -1, keepdims=True)
    return (x - mean) * tf.math.rsqrt(variance + 1e-3)


def layers(
    activation: Callable[[tf.Tensor], tf.Tensor], *, residual: bool = False
) -> Callable[..., Any]:
    """A step of layers with an activation each: the loss, and the gradients of the weights."""

    def step(x: tf.Tensor, *weights: tf.Tensor) -> tuple[tf.Tensor, Sequence[tf.Tensor]]:
        with tf.GradientTape() as tape:
            tape.watch(weights)
            for weight in weights:
                made = activation(x @ weight)
                x = x + made if residual else made
            loss = tf.reduce_sum(tf.square(x))
        return loss, tape.gradient(loss, weights)

    return step


def penalized_loss(model: Callable[..., Any], x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """A loss of a gradient, as in WGAN-GP."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        out = model(x)
    slopes = tf.norm(tape.gradient(out, x), axis=1)
    return tf.reduce_mean(tf.square(out - y)) + tf.reduce_mean(tf.square(slopes - 1.0))


def assert_same(actual: Any, expected: Any, rtol: float = 1e-5, zero: float = 0.0) -> None:
    """Compares structures of tensors, entry by entry, with the largest entry of each tensor.

    What is below the part `zero` of the largest entry of all tensors isn't compared.
    """
    tf.nest.assert_same_structure(actual, expected)
    pairs = [
        (np.asarray(a, np.float64), np.asarray(e, np.float64))
        for a, e in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True)
    ]
    largest = [np.abs(e).max(initial=0.0) for _, e in pairs]
    floor = zero * max(largest, default=0.0)
    for (a, e), size in zip(pairs, largest, strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=rtol * size + floor)
