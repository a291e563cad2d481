"""When the backward pass of a profiled call began, as far as the profile tells.

A profile names the functions that were called eagerly and the ops that the executor ran. A function
that an eager tape made is a backward pass, as its name says. Of others the graph is looked up by
name, and the first of its ops to run that combines a cotangent with what the forward pass computed
begins the backward pass: the scope `gradient_tape` alone doesn't tell, since TensorFlow computes
factors of derivatives early.

Nothing is guessed. The profile names no ops in code that XLA compiled: a fused group is seen where
it is called, and the backward pass of a step which is compiled as a whole not at all; nor is that
of ops which are run eagerly, one by one.

Uses private TensorFlow API, checked on 2.18 to 2.21: `context().get_function_def` and
`function_def_to_graph`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from absl import logging

from nested_fad_tf.graph import versions
from nested_fad_tf.graph.roles import begins_backward, find_roles
from nested_fad_tf.graph.view import GraphView

_CALL = "EagerLocalExecute: "
_OF_A_TAPE = "__backward_"
# The executor's events: the op's name and its type.
_OP = re.compile(r"[A-Za-z0-9.][\w./>-]*:\w+")
# What it calls ops that don't hold up its thread, such as calls of compiled functions.
_ASYNCHRONOUS = "ExecutorState::ProcessAsync::Start"


def tells(event: str) -> bool:
    """Whether an event of a profile is of use here.

    Args:
        event: Its name.

    Returns:
        Whether it names a function that is called eagerly, or an op that the executor runs.
    """
    return event.startswith(_CALL) or event == _ASYNCHRONOUS or _OP.fullmatch(event) is not None


def told(event: str, stats: Mapping[str, Any]) -> str:
    """What an event that `tells` stands for.

    Args:
        event: Its name.
        stats: What the profile adds to it; of ops that run asynchronously only this names them.

    Returns:
        A name of the form that `Passes` reads.
    """
    if event == _ASYNCHRONOUS:
        return f"{stats.get('name', '')}:{stats.get('kernel_type', '')}"
    return event


class Passes:
    """Tells when backward passes began; looks at each function once."""

    def __init__(self) -> None:
        """Knows no function yet."""
        self._found: dict[str, frozenset[str]] = {}

    def backward_from(self, events: Iterable[tuple[int, str]]) -> int | None:
        """When the backward pass began in a call.

        Args:
            events: Times and names of what ran in it, in order of time.

        Returns:
            The time; `None` if nothing that ran is known to belong to a backward pass.
        """
        backward: frozenset[str] = frozenset()
        for time, event in events:
            if event.startswith(_CALL):
                function = event.removeprefix(_CALL)
                if function.startswith(_OF_A_TAPE):
                    return time
                backward |= self._backward_ops(function)
            elif event.partition(":")[0] in backward:
                return time
        return None

    def _backward_ops(self, function: str) -> frozenset[str]:
        if function not in self._found:
            try:
                self._found[function] = frozenset(_backward_ops(function, set()))
            except Exception as error:  # of private API; a measurement goes on without
                logging.debug("the passes of %s can't be told apart: %s", function, error)
                self._found[function] = frozenset()
        return self._found[function]


def _backward_ops(function: str, callers: set[str]) -> Iterator[str]:
    """Names that ops of a function's backward pass have when they run.

    Those of functions that it calls run with the caller's name before theirs, where TensorFlow
    inlines the call, and else under their own, which count where they can't be mixed up.
    """
    definition = _definition(function)
    if definition is None or function in callers:
        return
    view = GraphView.from_func_graph(_graph(definition))
    roles = find_roles(view)
    for node in view.nodes:
        if begins_backward(view, roles, (node,), node.inputs):
            yield node.name
    names = {node.name for node in view.nodes}
    for node in definition.node_def:
        for attribute in node.attr.values():
            for inner in _backward_ops(attribute.func.name, {function, *callers}):
                yield f"{node.name}/{inner}"
                if inner not in names:
                    yield inner


def _definition(function: str) -> Any:
    context = versions.private("eager.context").context()
    return context.get_function_def(function) if context.has_function(function) else None


def _graph(definition: Any) -> Any:
    return versions.private("framework.function_def_to_graph").function_def_to_graph(definition)
