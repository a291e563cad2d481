"""How large tensors are, as far as that is known before a graph runs."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import tensorflow as tf

from nested_fad_tf.ops import elementwise, views
from nested_fad_tf.ops.reductions import REDUCTIONS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nested_fad_tf.graph.nodes import Node, Value

Shape = tuple[int | None, ...]

# What an unknown dimension counts as where nobody says better: Keras' own batch size.
NOMINAL = 32

# As large as their first input; no larger than the largest.
_AS_LARGE = views.ALIASES | views.REARRANGED | {"LogSoftmax", "Softmax"}
_NO_LARGER = views.TAKEN | REDUCTIONS.keys() | {"Case", "If", "StatelessCase", "StatelessIf"}


def size_in_bytes(dtype: tf.DType, shape: Shape | None, nominal: int) -> int:
    """The bytes a tensor takes, unknown dimensions counted at a nominal size.

    A planner that took unknown dimensions for zero would do nothing on `fit` with a partial last
    batch.

    Args:
        dtype: The tensor's dtype. Types without a fixed size (resource, variant, string) count as 0
            bytes.
        shape: Static shape; an unknown rank counts as a scalar, since nothing is known to scale.
        nominal: What an unknown dimension is taken to be, in elements.

    Returns:
        The size in bytes.
    """
    if shape is None:
        return 0
    elements = 1
    for dim in shape:
        elements *= nominal if dim is None else dim
    return elements * _item_size(dtype)


def output_in_bytes(node: Node, dtype: tf.DType, shape: Shape | None, nominal: int) -> int:
    """The bytes a node's output takes.

    Where the batch is unknown TensorFlow loses track of the other dimensions, too: the gradient of
    a product sums over axes that are computed from shapes, and its result is `[?, ?]`; images that
    are cut into windows become `[?, ?, ?, ?, ?, ?]`, some GiB if all of them counted as unknown.
    But what is only rearranged has as many elements as before, what is taken from something or
    summed has no more than that, and neither an element-wise op nor a branch is taken to have more
    than its largest input.

    Args:
        node: The node; its inputs are set.
        dtype: Dtype of the output.
        shape: Its static shape.
        nominal: What an unknown dimension is taken to be, in elements.

    Returns:
        The size in bytes.
    """
    nbytes = size_in_bytes(dtype, shape, nominal)
    if shape is not None and shape.count(None) < 2:
        return nbytes
    if node.op_type in _AS_LARGE:
        return _elements(node.inputs[:1]) * _item_size(dtype)
    if node.op_type in elementwise.TABLE:
        whole = [v for v in node.inputs if _is_whole(v, shape)]
        return _elements(whole) * _item_size(dtype) if whole else nbytes
    if node.op_type in _NO_LARGER and shape is not None:
        return min(nbytes, _elements(node.inputs) * _item_size(dtype))
    return nbytes


def _elements(values: Iterable[Value]) -> int:
    return max((v.nbytes // (_item_size(v.dtype) or 1) for v in values), default=0)


def _is_whole(value: Value, shape: Shape | None) -> bool:
    """Whether an operand may be as large as the result: it isn't known to be broadcast.

    Only unknown dimensions are looked at. Of the others the result's are known.
    """
    if shape is None or value.shape is None:
        return True
    if None in shape[: max(0, len(shape) - len(value.shape))]:
        return False
    dims = zip(reversed(value.shape), reversed(shape), strict=False)
    return not any(own == 1 and dim is None for own, dim in dims)


@functools.cache
def _item_size(dtype: tf.DType) -> int:
    """Bytes of one element; 0 for what has no fixed size."""
    return 0 if dtype in (tf.resource, tf.variant, tf.string) else int(dtype.size)
