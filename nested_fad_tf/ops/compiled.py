"""Ops that a fused group may hand to XLA.

Element-wise ops whose XLA lowering on CPU is a loop over elements like all the others, so that a
group of them becomes one loop. Reductions are left out: inside a group they are slow on XLA:CPU
(EfficientNetV2B0 ran at 1.58x of plain TensorFlow's time), and layout ops end a group.
"""

from __future__ import annotations

import functools
from typing import Final

import tensorflow as tf

COMPILED: Final[frozenset[str]] = frozenset(
    {
        "Abs",
        "Add",
        "AddN",
        "AddV2",
        "BiasAdd",
        "Cast",
        "ClipByValue",
        "Cos",
        "Cosh",
        "DivNoNan",
        "Elu",
        "EluGrad",
        "Equal",
        "Erf",
        "Erfc",
        "Exp",
        "Expm1",
        "Greater",
        "GreaterEqual",
        "Inv",
        "LeakyRelu",
        "LeakyReluGrad",
        "Less",
        "LessEqual",
        "Log",
        "Log1p",
        "LogicalAnd",
        "LogicalNot",
        "LogicalOr",
        "Maximum",
        "Minimum",
        "Mul",
        "MulNoNan",
        "Neg",
        "NotEqual",
        "Pow",
        "RealDiv",
        "Reciprocal",
        "ReciprocalGrad",
        "Relu",
        "Relu6",
        "Relu6Grad",
        "ReluGrad",
        "Rsqrt",
        "RsqrtGrad",
        "SelectV2",
        "Selu",
        "SeluGrad",
        "Sigmoid",
        "SigmoidGrad",
        "Sign",
        "Sin",
        "Sinh",
        "Softplus",
        "SoftplusGrad",
        "Softsign",
        "SoftsignGrad",
        "Sqrt",
        "SqrtGrad",
        "Square",
        "SquaredDifference",
        "Sub",
        "Tanh",
        "TanhGrad",
        "Xdivy",
    }
)

_EXACT = frozenset({"Equal", "NotEqual"})
# cuDNN finds the maximum by comparing the pooling's input with its output; the CPU kernel looks for
# it anew in the input.
_EXACT_ON_GPU = frozenset({"MaxPoolGrad", "MaxPoolGradV2", "MaxPool3DGrad"})


@functools.cache
def exact_readers() -> frozenset[str]:
    """Ops that ask whether two tensors have the same bits, as the gradient of a maximum does.

    XLA contracts `a * b + c` to one instruction with one rounding. What it recomputes can differ in
    the last bit from what was computed before, and the two would no longer be equal: the gradient
    of a maximum would be lost.

    Returns:
        The op types.
    """
    return _EXACT | _EXACT_ON_GPU if tf.config.list_physical_devices("GPU") else _EXACT
