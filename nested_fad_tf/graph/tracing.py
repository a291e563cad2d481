"""The hook that sees a function's graph right after it was traced: TensorFlow's private API.

`FUNC_GRAPH_TRANSFORMS` is a list of callables that TensorFlow runs on every `FuncGraph` before its
`ConcreteFunction` is made. What is traced for `jit_compile=True` is traced in an
`XLAControlFlowContext`, on the graph or on one around it. The gradient of a loop is of a class of
its own, as have the bodies of loops and the branches of conditions. This is the one file that knows
of these; checked on 2.18 to 2.21.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from nested_fad_tf.errors import UnsupportedVersionError
from nested_fad_tf.graph import versions
from nested_fad_tf.graph.calls import MUST_COMPILE

Observer = Callable[[Any], None]

_observer: contextvars.ContextVar[Observer | None] = contextvars.ContextVar(
    "nested_fad_tf_observer", default=None
)
_outermost: contextvars.ContextVar[Any] = contextvars.ContextVar(
    "nested_fad_tf_outermost", default=None
)
_lock = threading.Lock()
_active = 0


@contextlib.contextmanager
def observing(observer: Observer | None) -> Iterator[None]:
    """Calls back with every `FuncGraph` that this thread traces inside the block.

    The list that TensorFlow runs through is changed only while a block is open somewhere; threads
    without a block of their own are not affected.

    Args:
        observer: What to call; it may edit the graph. `None` shields the block from outer ones.

    Yields:
        Nothing.

    Raises:
        UnsupportedVersionError: If this TensorFlow has no such hook.
    """
    _install()
    tokens = _observer.set(observer), _outermost.set(outer_graph())
    try:
        yield
    finally:
        _observer.reset(tokens[0])
        _outermost.reset(tokens[1])
        _uninstall()


def outer_graph() -> Any:
    """The graph that functions traced from here are nested in."""
    return tf.compat.v1.get_default_graph()


def is_nested_in(graph: Any, outer: Any) -> bool:
    """Whether a `FuncGraph` was traced directly inside a graph that `outer_graph` gave."""
    return graph.outer_graph is outer


def is_taped() -> bool:
    """Whether a tape is open around the function that was just traced."""
    return bool(versions.private("eager.record").could_possibly_record())


def is_part_of_another(graph: Any) -> bool:
    """Whether a function is a nested one, called by another whose tracing is observed as well.

    Args:
        graph: The `FuncGraph` of the function.

    Returns:
        Whether it is; the bodies of loops and the like are no functions in this sense.
    """
    function = versions.private("framework.func_graph").FuncGraph
    nested = type(graph) is function and isinstance(graph.outer_graph, function)
    return nested and not is_nested_in(graph, _outermost.get())


def is_compiled(graph: Any) -> bool:
    """Whether XLA compiles a function as a whole, on its own account or its caller's.

    A function that calls a compiled one isn't for that: of its ops the call alone is compiled.

    Args:
        graph: The `FuncGraph` of the function.

    Returns:
        Whether it was traced for that.
    """
    control_flow_util = versions.private("ops.control_flow_util")
    if control_flow_util.GraphOrParentsInXlaContext(graph):
        return True
    containing = control_flow_util.GetContainingXLAContext
    return any(
        containing(op._get_control_flow_context()) and MUST_COMPILE not in op.node_def.attr
        for op in graph.get_operations()
    )


def is_gradient_of_loop(graph: Any) -> bool:
    """Whether a function is the body of the loop that computes a loop's gradient.

    Args:
        graph: Its `FuncGraph`.

    Returns:
        Whether `tf.while_loop`'s gradient made it.
    """
    return isinstance(graph, versions.private("ops.while_v2")._WhileBodyGradFuncGraph)


def _transforms() -> list[Observer]:
    try:
        return versions.private("eager.polymorphic_function.transform").FUNC_GRAPH_TRANSFORMS
    except AttributeError as error:
        raise UnsupportedVersionError(
            f"TensorFlow {tf.__version__} has no hook for traced functions that nested_fad_tf knows"
        ) from error


def _dispatch(graph: Any) -> None:
    observer = _observer.get()
    if observer is not None:
        observer(graph)


def _install() -> None:
    global _active
    with _lock:
        if not _active:
            _transforms().append(_dispatch)
        _active += 1


def _uninstall() -> None:
    global _active
    with _lock:
        _active -= 1
        if not _active:
            _transforms().remove(_dispatch)
