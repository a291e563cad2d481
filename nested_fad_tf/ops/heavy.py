"""Ops that a memory budget may compute again although that takes long, and their work.

Products, convolutions, pooling, reductions and normalisers: pure functions of their inputs, whose
kernels give the same result each time. Work is counted from sizes, in multiply-adds or in elements
that are passed over: the planner compares ops with one another and needs no more. What a unit takes
depends on the kind of op and on the device (`plan/prices.py`).
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from nested_fad_tf.ops import reductions


class Tensor(Protocol):
    """What work is counted from: a value of the view."""

    @property
    def shape(self) -> tuple[int | None, ...] | None:
        """Static shape, `None` for what is unknown."""

    @property
    def nbytes(self) -> int:
        """Size in bytes, unknown dimensions at a nominal size."""

    @property
    def dtype(self) -> Any:
        """Its `tf.DType`."""


Attr = Callable[[str], Any]
Work = Callable[[Sequence[Tensor], Sequence[Tensor], Attr], float]


class Kind(enum.Enum):
    """What an op's time goes to."""

    PRODUCT = "product"  # multiply-adds, with matrices in caches
    CONVOLUTION = "convolution"  # the same, of filters
    DEPTHWISE = "depthwise"  # multiply-adds, few for each element that is read
    PASS = "pass"  # reading elements at the speed of memory


@dataclasses.dataclass(frozen=True)
class Heavy:
    """How long an op takes.

    Attributes:
        kind: What its work is counted in: multiply-adds, or elements for `Kind.PASS`.
        work: Counts it from inputs, outputs and attributes.
    """

    kind: Kind
    work: Work


def elements(value: Tensor) -> int:
    """The number of elements of a tensor.

    Args:
        value: The tensor.

    Returns:
        The number, unknown dimensions at their nominal size.
    """
    return value.nbytes // max(1, value.dtype.size)


def _product(read: Sequence[Tensor], made: Sequence[Tensor], attr: Attr) -> float:
    """Of matrices: m k, k n and m n elements make (m k n)², whichever of them is transposed."""
    left, right, out = (float(elements(v)) for v in (*read[:2], made[0]))
    return math.sqrt(left * right * out / _stacked(made[0]))


def _stacked(out: Tensor) -> int:
    """How many matrices are multiplied at once."""
    return math.prod(d or 1 for d in out.shape[:-2]) if out.shape else 1


def _einsum(read: Sequence[Tensor], made: Sequence[Tensor], attr: Attr) -> float:
    """One multiply-add for each combination of labels."""
    operands, _, _ = attr("equation").decode().partition("->")
    sizes: dict[str, int] = {}
    for labels, value in zip(operands.split(","), read, strict=True):
        if "." in labels or value.shape is None or None in value.shape:
            return math.sqrt(math.prod(float(elements(v)) for v in (*read, made[0])))
        sizes |= {k: d for k, d in zip(labels, value.shape, strict=True) if d}
    return float(math.prod(sizes.values()))


def _convolution(read: Sequence[Tensor], made: Sequence[Tensor], attr: Attr) -> float:
    """Every output element is a product with the filter of its channel."""
    channels = (read[1].shape or (1,))[-1] or 1
    return elements(made[0]) * elements(read[1]) / channels


def _depthwise(read: Sequence[Tensor], made: Sequence[Tensor], attr: Attr) -> float:
    """Every output element is a product with the window of one channel."""
    window = math.prod(d or 1 for d in (read[1].shape or ())[:2])
    return float(elements(made[0]) * window)


def _transposed(read: Sequence[Tensor], made: Sequence[Tensor], attr: Attr) -> float:
    """Every element of what comes in is multiplied with a filter."""
    channels = (read[1].shape or (1,))[-1] or 1
    return elements(read[2]) * elements(read[1]) / channels


def _pooling(read: Sequence[Tensor], made: Sequence[Tensor], attr: Attr) -> float:
    """Windows overlap and stay in caches: a fifth of a pass for each of their elements."""
    return 0.2 * elements(made[0]) * math.prod(attr("ksize") or (1,))


def _passes(count: float) -> Heavy:
    """So many passes over what is read, each at memory speed."""

    def work(read: Sequence[Tensor], made: Sequence[Tensor], attr: Attr) -> float:
        return count * max(map(elements, (*read, *made)))

    return Heavy(Kind.PASS, work)


_POOLING: Final = Heavy(Kind.PASS, _pooling)
_PRODUCT: Final = Heavy(Kind.PRODUCT, _product)
_CONVOLUTION: Final = Heavy(Kind.CONVOLUTION, _convolution)
_TRANSPOSED: Final = Heavy(Kind.CONVOLUTION, _transposed)

TABLE: Final[dict[str, Heavy]] = {
    "AvgPool": _POOLING,
    "AvgPool3D": _POOLING,
    "BatchMatMul": _PRODUCT,
    "BatchMatMulV2": _PRODUCT,
    "BatchMatMulV3": _PRODUCT,
    "Conv2D": _CONVOLUTION,
    "Conv2DBackpropInput": _TRANSPOSED,
    "Conv3D": _CONVOLUTION,
    "Conv3DBackpropInputV2": _TRANSPOSED,
    "DepthwiseConv2dNative": Heavy(Kind.DEPTHWISE, _depthwise),
    "Einsum": Heavy(Kind.PRODUCT, _einsum),
    "FusedBatchNorm": _passes(3),
    "FusedBatchNormV2": _passes(3),
    "FusedBatchNormV3": _passes(3),
    "LRN": _passes(6),
    "MatMul": _PRODUCT,
    "MaxPool": _POOLING,
    "MaxPool3D": _POOLING,
    "ResizeBicubic": _passes(6),
    "ResizeBilinear": _passes(3),
    "ResizeNearestNeighbor": _passes(2),
    **dict.fromkeys(reductions.REDUCTIONS, _passes(1)),
    **dict.fromkeys(reductions.NORMALISERS, _passes(6)),
    **dict.fromkeys(reductions.SCANS, _passes(3)),
}
