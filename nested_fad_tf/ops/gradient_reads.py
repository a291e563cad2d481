"""What TensorFlow's gradients of ops that aren't element-wise read: op type -> (inputs, outputs).

Whatever is listed here is kept for the backward pass whether or not a neighbour needs it. Ops that
aren't listed read nothing but shapes (sums, means, transposes, reshapes) or are unknown; taking an
unknown op's tensors for not kept is the careful assumption. What an element-wise op's gradient
reads follows from its line in `ops/elementwise.py`.
"""

from __future__ import annotations

from typing import Final

_Indices = tuple[int, ...]
_PRODUCT: Final = ((0, 1), ())

GRADIENT_READS: Final[dict[str, tuple[_Indices, _Indices]]] = {
    "BatchMatMul": _PRODUCT,
    "BatchMatMulV2": _PRODUCT,
    "BatchMatMulV3": _PRODUCT,
    "Conv2D": _PRODUCT,
    "Conv2DBackpropInput": ((1, 2), ()),
    "Conv3D": _PRODUCT,
    "Cumprod": ((0,), ()),
    "DepthwiseConv2dNative": _PRODUCT,
    "Einsum": _PRODUCT,
    "FusedBatchNormV3": ((0, 1), (3, 4, 5)),
    "L2Loss": ((0,), ()),
    "LogSoftmax": ((), (0,)),
    "MatMul": _PRODUCT,
    "Max": ((0,), (0,)),
    "MaxPool": ((0,), (0,)),
    "Min": ((0,), (0,)),
    "Prod": ((0,), ()),
    "Softmax": ((), (0,)),
    "SoftmaxCrossEntropyWithLogits": ((), (1,)),
    "SparseSoftmaxCrossEntropyWithLogits": ((), (1,)),
}

# Ops whose gradient reads inputs alone, and as well from a copy that was computed again.
TAKES_COPIES: Final[frozenset[str]] = frozenset(
    {
        "BatchMatMul",
        "BatchMatMulV2",
        "BatchMatMulV3",
        "Conv2D",
        "Conv3D",
        "DepthwiseConv2dNative",
        "Einsum",
        "MatMul",
    }
)
