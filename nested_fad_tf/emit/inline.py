"""Inlines nested functions, so that a step is planned as one graph.

A `tf.function` called under a tape is two calls: one of its forward function, which hands over what
the other, of its backward function, reads. Each looks opaque from outside. TensorFlow inlines such
calls itself before it runs a function, with the same treatment of control edges as here; doing it
now lets the plan see through them. Not inlined: what XLA compiles, what asks not to be, functions
that were rewritten by themselves, and functions with calls in them that have to stay.

An op can't be taken out of a graph: the call stays, unread and not among the graph's control
outputs, and never runs.

Uses private TensorFlow API, checked on 2.18 to 2.21: of an `AtomicFunction` its `graph` and
`cached_definition`, `function_def_to_graph_def`, `Operation._control_outputs`.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from nested_fad_tf.emit import primitives
from nested_fad_tf.graph import versions
from nested_fad_tf.graph.calls import CALLS, MUST_COMPILE, function_called, function_named
from nested_fad_tf.graph.view import is_stateful

# Attributes by which a function asks to be run as one.
_TOGETHER = ("_noinline", MUST_COMPILE, "_XlaCompile", "api_implements")
# The attribute of a forward function that names its backward function, and the other way round.
_DERIVED = ("backward_function_name", "forward_function_name")
# What TensorFlow calls the graph of a backward function.
_BACKWARD = re.compile(r"_*backward_(.*)_\d+")


class Inliner:
    """Knows which functions wait to be inlined, and which are rewritten by themselves."""

    def __init__(self) -> None:
        """Knows of none."""
        self._deferred: weakref.WeakSet[Any] = weakref.WeakSet()
        self._rewritten: weakref.WeakSet[Any] = weakref.WeakSet()

    def defer(self, graph: Any) -> None:
        """Notes that a function is to be inlined wherever it is called.

        Args:
            graph: Its `FuncGraph`.
        """
        self._deferred.add(graph)

    def rewritten(self, graph: Any) -> None:
        """Notes that a function was rewritten, and is to stay a call.

        Args:
            graph: Its `FuncGraph`.
        """
        self._rewritten.add(graph)

    def inline(self, graph: Any) -> int:
        """Inlines the calls of nested functions that are differentiated, or will be.

        Args:
            graph: A `FuncGraph` that was just traced.

        Returns:
            How many calls were inlined.
        """
        calls = [op for op in graph.get_operations() if self._belongs(graph, op)]
        for call in calls:  # grows
            added = _inline(graph, call, function_called(graph, call))
            calls += [op for op in added if op.type in CALLS]
        return len(calls)

    def _belongs(self, graph: Any, call: tf.Operation) -> bool:
        """Whether a call is of a function that a gradient goes through, and can be inlined."""
        function = function_called(graph, call)
        if function is None:
            return False
        derived = any(name in function.cached_definition.attr for name in _DERIVED)
        return (derived or function.graph in self._deferred) and self._fits(graph, function)

    def _fits(self, graph: Any, function: Any) -> bool:
        """Whether a function, and all that it calls, can be inlined."""
        attributes = function.cached_definition.attr
        if any(name in attributes for name in _TOGETHER):
            return False
        forward = attributes["forward_function_name"].s if _DERIVED[1] in attributes else b""
        own = function_named(graph, forward.decode()) if forward else function
        if own is None or own.graph in self._rewritten:
            return False
        called = (n for n in function.cached_definition.node_def if n.op in CALLS)
        inner = (function_named(function.graph, n.attr["f"].func.name) for n in called)
        return all(f is not None and self._fits(function.graph, f) for f in inner)


def _inline(graph: Any, call: tf.Operation, function: Any) -> list[tf.Operation]:
    """Puts a function's body in the place of a call.

    Returns:
        The ops of the body.
    """
    definition = function.cached_definition
    given = dict(zip((a.name for a in definition.signature.input_arg), call.inputs, strict=True))
    reader = versions.private("framework.function_def_to_graph")
    with (
        graph.as_default(),
        tf.control_dependencies(None),
        tf.name_scope(""),
        tf.device(call.device or None),
    ):
        body, flat = reader.function_def_to_graph_def(definition)
        parameters = [node for node in body.node if node.name in given]
        for node in parameters:
            body.node.remove(node)
        read = {name for node in body.node for name in node.input}
        returned = [flat[definition.ret[r.name]] for r in definition.signature.output_arg]
        controls = [definition.control_ret[name] for name in definition.signature.control_output]
        first = len(graph.get_operations())
        made = tf.graph_util.import_graph_def(
            body,
            input_map=_input_map(given, read),
            return_elements=[*(r for r in returned if r.split(":")[0] not in given), *controls],
            name=_scope(call, function),
        )
        added = graph.get_operations()[first:]
    made = iter(made)
    results = [given.get(r.split(":")[0]) for r in returned]
    results = [next(made) if r is None else r for r in results]
    for op in added:
        if call.control_inputs and is_stateful(op):
            primitives.wait_for(op, [*op.control_inputs, *call.control_inputs])
    _replace_results(graph, call.outputs, results)
    _replace_controls(graph, call, list(made))
    return added


def _input_map(given: Mapping[str, tf.Tensor], read: set[str]) -> dict[str, tf.Tensor]:
    """What parameters stand for, by the names under which the body reads and awaits them."""
    names = {name: (f"{name}:0", f"^{name}") for name in given}
    found = {key: given[name] for name, keys in names.items() for key in keys if key in read}
    return found | {name: tensor for name, tensor in given.items() if name in read}


def _scope(call: tf.Operation, function: Any) -> str:
    """The name scope of the body: that of the call, and the function's own name."""
    around, slash, _ = call.name.rpartition("/")
    name = re.sub(r"[^A-Za-z0-9_.\\-]", "_", function.graph.name)  # not "<lambda>"
    backward = _BACKWARD.fullmatch(name)
    own = f"backward_{backward[1]}" if backward else name.strip("_")
    return f"{around}{slash}{own or 'function'}"


def _replace_results(graph: Any, old: Sequence[tf.Tensor], new: Sequence[tf.Tensor]) -> None:
    results = {id(tensor): result for tensor, result in zip(old, new, strict=True)}
    if any(id(tensor) in results for tensor in graph.outputs):
        graph.outputs = [results.get(id(tensor), tensor) for tensor in graph.outputs]
        graph.structured_outputs = tf.nest.map_structure(
            lambda t: results.get(id(t), t), graph.structured_outputs, expand_composites=True
        )
    for tensor, result in zip(old, new, strict=True):
        result.set_shape(tensor.shape)
        for reader in tensor.consumers():
            for index, read in enumerate(reader.inputs):
                if read is tensor:
                    primitives.redirect(reader, index, result)


def _replace_controls(graph: Any, call: tf.Operation, effects: Sequence[tf.Operation]) -> None:
    """Whatever waited for the call waits for the body's effects."""
    for waiting in call._control_outputs:
        waits = [op for op in waiting.control_inputs if op is not call]
        primitives.wait_for(waiting, list(dict.fromkeys([*waits, *effects])))
    kept = [op for op in graph.control_outputs if op is not call]
    if len(kept) < len(graph.control_outputs):
        graph.control_outputs[:] = dict.fromkeys([*kept, *effects])
