"""Ops for which a difference in the last bit is not a rounding error.

The gradient of a maximum looks for the entries that equal it. What is recomputed can differ in the
last bit from what was computed before: XLA contracts `a * b + c` to one instruction with one
rounding, and TensorFlow's graph optimizer reassociates products that nobody else reads. The two
would no longer be equal, and the gradient would be lost.
"""

from __future__ import annotations

import functools

import tensorflow as tf

_EXACT = frozenset({"Equal", "NotEqual"})
# cuDNN finds the maximum by comparing the pooling's input with its output; the CPU kernel looks for
# it anew in the input.
_EXACT_ON_GPU = frozenset({"MaxPoolGrad", "MaxPoolGradV2", "MaxPool3DGrad"})


@functools.cache
def exact_readers() -> frozenset[str]:
    """Ops that ask whether two tensors have the same bits, as the gradient of a maximum does.

    Returns:
        The op types.
    """
    return _EXACT | _EXACT_ON_GPU if tf.config.list_physical_devices("GPU") else _EXACT
