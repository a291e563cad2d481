"""How the tests compare numbers."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import tensorflow as tf
from op_samples import Op

from nested_fad_tf.ops.expr import Apply, Leaf

# No kernel: TensorFlow replaces it by others before it runs. Its rule is AddN's.
NOT_RUN = {"AccumulateNV2"}
# How many roundings a formula and TensorFlow's may be apart. In half precision the results are of a
# few digits only, so that a wrong formula would show in single precision and a looser bound there
# would hide one.
ROUNDINGS = {tf.float32: 32, tf.float64: 16, tf.bfloat16: 8, tf.float16: 8}

Array = np.ndarray[Any, np.dtype[np.float64]]


def numbers(tensor: tf.Tensor) -> Array:
    """A tensor's values in double precision."""
    return np.asarray(tf.cast(tensor, tf.float64))


def unequal(theirs: Array, ours: Array, dtype: tf.DType, scale: float) -> Array:
    """Where values differ by more than rounding; anything is as good as a nan.

    Args:
        theirs: TensorFlow's values.
        ours: The rule's.
        dtype: In which they were computed.
        scale: The size of the terms that are summed up in them: 1 for ordinary inputs, where
            ``1 - y * y`` loses digits to cancellation, 0 to compare by relative error alone.

    Returns:
        A mask.
    """
    limits = ml_dtypes.finfo(dtype.as_numpy_dtype)
    with np.errstate(all="ignore"):
        bound = ROUNDINGS[dtype] * float(limits.eps) * np.maximum(np.abs(theirs), scale)
        # Below the smallest normal number there are no digits left to compare.
        close = np.abs(theirs - ours) <= bound + 4 * float(limits.tiny)
        return ~((theirs == ours) | np.isnan(theirs) | close)


def expression(op: Op, attrs: dict[str, Any]) -> Apply:
    """The op applied to leaves 0, 1, ..."""
    return Apply(op.name, tuple(Leaf(i) for i in range(op.arity)), tuple(attrs.items()))
