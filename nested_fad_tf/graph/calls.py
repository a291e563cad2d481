"""Ops that call a function, and the functions that they call.

Uses private TensorFlow API, checked on 2.18 to 2.21: `Graph._get_function` and the `AtomicFunction`
that it gives.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
# The attribute of a call, or of a function, that XLA compiles by itself.
MUST_COMPILE = "_XlaMustCompile"


def function_called(graph: Any, call: tf.Operation) -> Any:
    """The function that an op calls.

    Args:
        graph: The graph that the op is in.
        call: Any op.

    Returns:
        The `AtomicFunction`; `None` if the op calls none, or one that is not known.
    """
    return function_named(graph, call.get_attr("f").name) if call.type in CALLS else None


def function_named(graph: Any, name: str) -> Any:
    """The function of a name, as a graph or one around it knows it.

    Args:
        graph: The graph to start from.
        name: The function's name.

    Returns:
        The `AtomicFunction`; `None` if there is none.
    """
    while graph is not None:
        function = graph._get_function(name)
        if function is not None:
            return function
        graph = getattr(graph, "outer_graph", None)
    return None
