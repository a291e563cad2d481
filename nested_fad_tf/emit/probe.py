"""Measures, inside a rewritten graph, how far what comes back is from what was stored."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import tensorflow as tf

from nested_fad_tf.emit import primitives
from nested_fad_tf.emit.expression import build
from nested_fad_tf.graph.nodes import Value
from nested_fad_tf.ops.expr import leaves
from nested_fad_tf.plan.rewrite import Restored

_NAME = "nested_fad_errors"


def outlet() -> tf.Tensor:
    """Adds an output for the errors to a function that is being traced.

    Returns:
        A tensor of shape [n], whatever n will be; empty until `connect` is called.
    """
    nothing = tf.zeros([0], tf.float64)
    # What is of any length now may be of another length later.
    unknown = tf.raw_ops.PlaceholderWithDefault(input=nothing, shape=[None])
    return tf.identity(unknown, name=_NAME)


def connect(
    graph: Any, restored: Sequence[Restored], tensor_of: Callable[[Value], tf.Tensor]
) -> None:
    """Lets the outlet of a rewritten graph give the errors.

    Args:
        graph: The `FuncGraph`; none of its groups are compiled.
        restored: What is stored with a loss.
        tensor_of: Gives the tensor that holds a value.
    """
    (out,) = (op for op in graph.get_operations() if op.name == _NAME)
    with graph.as_default(), tf.control_dependencies(None), tf.name_scope(_NAME):
        errors = [_error(item, tensor_of) for item in restored]
        if errors:
            primitives.redirect(out, 0, tf.stack(errors))


def _error(item: Restored, tensor_of: Callable[[Value], tf.Tensor]) -> tf.Tensor:
    """The norm of the difference, as a part of the norm of what was stored."""
    back = tensor_of(item.back)
    read: dict[Hashable, tf.Tensor] = {
        key: tensor_of(key) for key in leaves(item.exact) if isinstance(key, Value)
    }
    exact = build(item.exact, read, dtype=back.dtype)
    back, exact = tf.cast(back, tf.float64), tf.cast(exact, tf.float64)
    return tf.math.divide_no_nan(tf.norm(back - exact), tf.norm(exact))
