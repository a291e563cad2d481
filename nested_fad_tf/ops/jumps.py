"""Ops for which a small change of what they read is no small change of what they give.

What is kept for the backward pass in a lossy format comes back a little off. Most derivatives take
that well: they are continuous. A comparison doesn't, and neither does the gradient of ReLU, of what
it reads: close to the threshold all of a cotangent passes, or nothing.

Ops that read floating-point numbers and give integers or booleans jump whatever they compute. Here
are the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import tensorflow as tf

# The inputs in which an op jumps.
TABLE: Final[dict[str, Sequence[int]]] = {
    # arithmetic
    "Atan2": (0,),  # on the negative half of the other axis
    "Ceil": (0,),
    "FakeQuantWithMinMaxArgs": (0,),
    "FakeQuantWithMinMaxVars": (0, 1, 2),
    "FakeQuantWithMinMaxVarsPerChannel": (0, 1, 2),
    "Floor": (0,),
    "FloorDiv": (0, 1),
    "FloorMod": (0, 1),
    "Mod": (0, 1),
    "Rint": (0,),
    "Round": (0,),
    "Sign": (0,),
    "TruncateDiv": (0, 1),
    "TruncateMod": (0, 1),
    # gradients, in what the op read or gave
    "FakeQuantWithMinMaxArgsGradient": (1,),
    "FakeQuantWithMinMaxVarsGradient": (1, 2, 3),
    "FakeQuantWithMinMaxVarsPerChannelGradient": (1, 2, 3),
    "LeakyReluGrad": (1,),
    "MaxPool3DGrad": (0, 1),
    "MaxPool3DGradGrad": (0, 1),
    "MaxPoolGrad": (0, 1),
    "MaxPoolGradGrad": (0, 1),
    "MaxPoolGradGradV2": (0, 1),
    "MaxPoolGradV2": (0, 1),
    "Relu6Grad": (1,),
    "ReluGrad": (1,),
    "SeluGrad": (1,),
}

# Gradients that only ask where input 1 lies above the first of these numbers and below the second,
# if there is one: 1 stands for all that do, 0 for all others.
BOUNDS: Final[dict[str, Sequence[float]]] = {
    "LeakyReluGrad": (0.0,),
    "Relu6Grad": (0.0, 6.0),
    "ReluGrad": (0.0,),
}


def jumps(
    op_type: str, inputs: Sequence[tf.DType], outputs: Sequence[tf.DType], index: int
) -> bool:
    """Whether the result of an op may jump where one of its inputs changes by little.

    Args:
        op_type: The op.
        inputs: Dtypes of its inputs.
        outputs: Dtypes of its outputs.
        index: Which of its inputs.

    Returns:
        Whether it may.
    """
    if not inputs[index].is_floating:
        return False
    whole = all(dtype.is_integer or dtype.is_bool for dtype in outputs)
    return (bool(outputs) and whole) or index in TABLE.get(op_type, ())
