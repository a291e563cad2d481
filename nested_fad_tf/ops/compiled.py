"""Ops that a fused group may hand to XLA.

Element-wise ops whose XLA lowering on CPU is a loop over elements like all the others, so that a
group of them becomes one loop. Reductions are left out: inside a group they are slow on XLA:CPU
(EfficientNetV2B0 ran at 1.58x of plain TensorFlow's time), and layout ops end a group.
"""

from __future__ import annotations

from typing import Final

# Compiled, they give the bits that TensorFlow's kernels give.
EXACT: Final[frozenset[str]] = frozenset(
    {
        "Abs",
        "Add",
        "AddN",
        "AddV2",
        "BiasAdd",
        "Cast",
        "ClipByValue",
        "DivNoNan",
        "EluGrad",
        "Equal",
        "Greater",
        "GreaterEqual",
        "LeakyRelu",
        "LeakyReluGrad",
        "Less",
        "LessEqual",
        "LogicalAnd",
        "LogicalNot",
        "LogicalOr",
        "Maximum",
        "Minimum",
        "Mul",
        "MulNoNan",
        "Neg",
        "NotEqual",
        "RealDiv",
        "ReciprocalGrad",
        "Relu",
        "Relu6",
        "Relu6Grad",
        "ReluGrad",
        "SelectV2",
        "SeluGrad",
        "Sign",
        "Softsign",
        "SoftsignGrad",
        "Sqrt",
        "Square",
        "SquaredDifference",
        "Sub",
        "Xdivy",
    }
)

# Approximated, by one polynomial in XLA and by another in TensorFlow's kernels.
APPROXIMATE: Final[frozenset[str]] = frozenset(
    {
        "Cos",
        "Cosh",
        "Elu",
        "Erf",
        "Erfc",
        "Exp",
        "Expm1",
        "Inv",
        "Log",
        "Log1p",
        "Pow",
        "Reciprocal",
        "Rsqrt",
        "RsqrtGrad",
        "Selu",
        "Sigmoid",
        "SigmoidGrad",
        "Sin",
        "Sinh",
        "Softplus",
        "SoftplusGrad",
        "SqrtGrad",
        "Tanh",
        "TanhGrad",
    }
)

COMPILED: Final[frozenset[str]] = EXACT | APPROXIMATE

# Those of the exact ones that end in a multiplication: a compiler contracts it with a sum that
# follows. A division by a constant becomes one, and a negation is a part of one.
MULTIPLYING: Final[frozenset[str]] = frozenset(
    {"Mul", "Neg", "RealDiv", "ReciprocalGrad", "SeluGrad", "Square", "SquaredDifference"}
)
