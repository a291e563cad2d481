"""Blocks of layers that `tf.recompute_grad` runs again in the backward pass.

What a careful user would wrap: the layers that a model repeats, where it is made of such (the
encoder layers of a transformer); else runs of layers between tensors that everything passes
through, cut so that the tensors kept at the borders and the largest block together are least (Chen
et al., arXiv 1604.06174). Dropout and batch statistics are what `tf.recompute_grad` makes of them.

Reads the graph of a Keras model by private API, checked on 2.21.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

# A place to cut a model: how many of its nodes come before, and the tensor that all passes through.
_Cut = tuple[int, Any]


def recomputed(model: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """Wraps the blocks of a model.

    Args:
        model: A functional or sequential model; repeated layers in it are changed.

    Returns:
        Its forward pass in training mode, a function from the input to the logits.

    Raises:
        ValueError: If it has neither repeated layers nor a place to cut it.
    """
    repeated = repeated_layers(model)
    for layer in repeated:
        layer.call = _recomputed_call(layer.call)
    if repeated:
        return lambda features: model(features, training=True)
    parts = [keras.Model(start, end) for start, end in _borders(model)]
    if len(parts) < 2:
        raise ValueError("no tensor of this model has everything pass through it")

    def forward(features: tf.Tensor) -> tf.Tensor:
        for part in parts:
            features = _recompute(lambda x, part=part: part(x, training=True), features)
        return features

    return forward


def repeated_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers with layers inside that occur several times, the outermost such.

    Args:
        model: The model.

    Returns:
        The layers, in the model's order.
    """
    layers = model._flatten_layers(include_self=False)
    composite = [x for x in layers if not isinstance(x, keras.Model) and len(_inside(x)) > 1]
    counts = Counter(type(layer) for layer in composite)
    repeated = [layer for layer in composite if counts[type(layer)] > 1]
    nested = {id(inner) for layer in repeated for inner in _inside(layer)}
    return [layer for layer in repeated if id(layer) not in nested]


def _inside(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    return layer._flatten_layers(include_self=False)


def _recomputed_call(call: Callable[..., Any]) -> Callable[..., Any]:
    """A layer's `call` for `tf.recompute_grad`, which takes nothing but tensors in a graph."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        flat = tf.nest.flatten((args, kwargs))
        places = [i for i, x in enumerate(flat) if tf.is_tensor(x) and x.dtype.is_floating]

        def run(*tensors: tf.Tensor) -> Any:
            filled = list(flat)
            for place, tensor in zip(places, tensors, strict=True):
                filled[place] = tensor
            args_again, kwargs_again = tf.nest.pack_sequence_as((args, kwargs), filled)
            return call(*args_again, **kwargs_again)

        return _recompute(run, *(flat[place] for place in places))

    return wrapped


def _recompute(function: Callable[..., Any], *tensors: tf.Tensor) -> Any:
    return tf.recompute_grad(function)(*tensors)


def _borders(model: keras.Model) -> list[tuple[Any, Any]]:
    """Where each block begins and ends, tensors of the model."""
    functional = getattr(model, "_functional", model)  # Of a sequential model.
    by_depth = functional._nodes_by_depth
    nodes = [n for depth in sorted(by_depth, reverse=True) for n in by_depth[depth]]
    nodes = [node for node in nodes if not node.is_input]
    cuts = _best_cuts([_weight(node) for node in nodes], _possible_cuts(nodes))
    (start,), (end,) = functional.inputs, functional.outputs
    tensors = [start, *(tensor for _, tensor in cuts), end]
    return list(itertools.pairwise(tensors))


def _possible_cuts(nodes: Sequence[Any]) -> list[_Cut]:
    """Where one tensor is all that later nodes read of what came before."""
    last_read = {id(t): i for i, node in enumerate(nodes) for t in node.input_tensors}
    first = {id(t): t for t in nodes[0].input_tensors}
    alive = dict(first)
    cuts: list[_Cut] = []
    for i, node in enumerate(nodes[:-1]):
        alive |= {id(tensor): tensor for tensor in node.output_tensors}
        alive = {key: tensor for key, tensor in alive.items() if last_read.get(key, -1) > i}
        if len(alive) == 1 and not alive.keys() & first.keys():
            cuts.append((i + 1, next(iter(alive.values()))))
    return cuts


def _weight(node: Any) -> float:
    """The bytes of a node's outputs, as often as there are layers in it."""
    inside = node.operation._flatten_layers() if hasattr(node.operation, "_flatten_layers") else []
    return max(1, len(inside)) * sum(map(_elements, node.output_tensors))


def _elements(tensor: Any) -> int:
    return math.prod(size or 1 for size in tensor.shape)


def _best_cuts(weights: Sequence[float], cuts: Sequence[_Cut]) -> list[_Cut]:
    """Of the possible cuts those that keep least: all borders, and the largest block."""
    total = sum(weights)
    best: list[_Cut] = []
    least = total
    for count in range(2, len(cuts) + 2):
        chosen: list[_Cut] = []
        begin, largest = 0, 0.0
        for cut in cuts:
            block = sum(weights[begin : cut[0]])
            if block >= total / count:
                chosen.append(cut)
                begin, largest = cut[0], max(largest, block)
        largest = max(largest, sum(weights[begin:]))
        kept = largest + sum(_elements(tensor) for _, tensor in chosen)
        if kept < least:
            best, least = chosen, kept
    return best
