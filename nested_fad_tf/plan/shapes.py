"""Static shapes as constants.

`Shape` and its like read a tensor for nothing but its shape, and a reader that happens to run late
keeps the tensor alive. TensorFlow's graph optimizer folds them where it can infer the shape; behind
a fused group it can't.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.rewrite import RewriteBuilder


def fold_shapes(candidates: Candidates, builder: RewriteBuilder) -> None:
    """Lets the readers of static shapes of big tensors read constants.

    Args:
        candidates: The buffers of the forward pass; shapes of free ones are left alone.
        builder: The rewrite to extend.
    """
    returned = {v.id for v in candidates.view.outputs}
    for node in candidates.view.nodes:
        if node.op_type not in ("Shape", "ShapeN", "Size", "Rank"):
            continue
        for out, source in zip(node.outputs, node.inputs, strict=True):
            if source.static and not candidates.is_free(source) and out.id not in returned:
                _fold(node, out, source, candidates, builder)


def _fold(
    node: Node, out: Value, source: Value, candidates: Candidates, builder: RewriteBuilder
) -> None:
    readers = candidates.view.consumers[out.id]
    if not readers:
        return
    array = _contents(node.op_type, source).astype(out.dtype.as_numpy_dtype)
    constant = builder.constant(array, out.dtype, origin=node, suffix=f"/{out.index}")
    for reader, index in readers:
        builder.redirect(reader, index, constant)


def _contents(op_type: str, source: Value) -> np.ndarray:
    dims = tf.TensorShape(source.shape).as_list()
    if op_type == "Size":
        return np.array(math.prod(dims))
    return np.array(len(dims) if op_type == "Rank" else dims)
