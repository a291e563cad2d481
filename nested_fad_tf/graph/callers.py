"""How large what a graph leaves open is in the call that the graph is traced for.

A step that Keras' `fit` traces has an open batch dimension where the last batch may be smaller, as
has a function with an `input_signature` that says so. Both are traced when they are called: the
caller knows the size, and is on the stack. Nothing on the way hands it on, so the stack is looked
through, which needs no change to Keras or TensorFlow and finds callers of any kind. A size that is
not found, or wrong, makes plans that save less, never wrong ones.

Private API of TensorFlow: the class of `tf.function`s, `Dataset._inputs`, and what a
`DistributedDataset` is made of; checked on 2.18 to 2.21. Of Keras 3: the `epoch_iterator` of `fit`,
and its data adapter; checked on 3.6 to 3.15.
"""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from nested_fad_tf.graph import versions


def size_in_call(graph: Any) -> int | None:
    """What an open dimension of a function is in the call that it is being traced for.

    Args:
        graph: The `FuncGraph`, just traced: the call is still on the stack.

    Returns:
        The batch size of one replica if `fit` is running, else the size of the first open dimension
        of the outermost function's arguments; `None` if neither is known.
    """
    outermost, calls = None, _calls()
    for frame in _stack():
        code = frame.f_code
        if code.co_name == "fit" and {"x", "batch_size"} <= set(code.co_varnames):
            return _batch_size(frame.f_locals)
        if code in calls:
            outermost = frame
    return None if outermost is None else _open_dimension(graph, _arguments(outermost))


def _stack() -> Iterator[Any]:
    """The frames of this thread, innermost first.

    Who asks for a frame's variables makes it hold on to what they are now until it is done, even
    if they are deleted: only frames that are looked for are to be asked.
    """
    frame = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back  # type: ignore[assignment]


def _calls() -> set[Any]:
    """The code of what a `tf.function` is traced by, which takes the arguments of the call."""
    function = versions.private("eager.polymorphic_function.polymorphic_function").Function
    methods = (function.__call__, function.get_concrete_function)
    return {inspect.unwrap(method).__code__ for method in methods}


def _arguments(frame: Any) -> Any:
    found = inspect.getargvalues(frame)
    return [found.locals[name] for name in (found.varargs, found.keywords) if name]


def _batch_size(fit: Mapping[str, Any]) -> int | None:
    """The batch size of one replica, from the variables of a running `fit`."""
    strategy = getattr(fit.get("self"), "distribute_strategy", None)
    replicas = getattr(strategy, "num_replicas_in_sync", 1)
    for size in _possible_sizes(fit, replicas):
        if isinstance(size, int | np.integer) and size >= 1:
            return max(1, int(size) // replicas)
    return None


def _possible_sizes(fit: Mapping[str, Any], replicas: int) -> Iterator[Any]:
    """What the size of a batch may be told by, the most reliable first; each may know nothing."""
    data = fit["x"]
    if isinstance(data, tf.data.Dataset):
        yield _size_of_batches(data)
    # It holds one data set for all replicas, or those that a function made for workers, in batches
    # of one replica.
    if isinstance(data, tf.distribute.DistributedDataset):
        if (whole := getattr(data, "_original_dataset", None)) is not None:
            yield _size_of_batches(whole)
        for of_worker in getattr(data, "_datasets", ()):
            yield replicas * _size_of_batches(of_worker)
    adapter = getattr(fit.get("epoch_iterator"), "data_adapter", None)  # Keras 3's
    yield getattr(adapter, "batch_size", None)
    # A generator's, which Keras has asked for their shapes. A `PyDataset` isn't asked once more:
    # what it gives may cost much, or be drawn at random. By convention it tells.
    for array in tf.nest.flatten(getattr(adapter, "_first_batches", ())):
        yield next(iter(getattr(array, "shape", ())), None)
    yield getattr(data, "batch_size", None)
    yield fit["batch_size"]


def _size_of_batches(dataset: Any) -> int:
    """The batch size of a dataset; -1 if nothing tells it.

    TensorFlow's op looks through what can't change it, but not through `map`.
    """
    with tf.init_scope():
        variant = tf.data.experimental.to_variant(dataset)
        size = int(tf.raw_ops.ComputeBatchSize(input_dataset=variant))
    inputs = dataset._inputs()
    return _size_of_batches(inputs[0]) if size < 1 and len(inputs) == 1 else size


def _open_dimension(graph: Any, arguments: Any) -> int | None:
    """The size of the first dimension that is open in a traced function and isn't in its call."""
    flat = tf.nest.flatten(arguments, expand_composites=True)
    values = [v for v in flat if isinstance(v, tf.Tensor | np.ndarray)]
    function = versions.private("framework.func_graph").FuncGraph
    while isinstance(graph.outer_graph, function):
        graph = graph.outer_graph
    # Those of arguments are made first, in their order; captured tensors get theirs as they come.
    holders = (op.outputs[0] for op in graph.get_operations() if op.type == "Placeholder")
    for holder, value in zip(itertools.islice(holders, len(values)), values, strict=False):
        traced, called = holder.shape, tf.TensorShape(value.shape)
        if not traced.is_compatible_with(called):
            return None
        if traced.rank is not None and called.rank is not None:
            for dimension, size in zip(traced, called, strict=True):
                if dimension is None and size is not None:
                    return int(size)
    return None
