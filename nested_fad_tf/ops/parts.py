"""Results that are computed element by element once what an op reduced is there.

A fused normalization computes the means and variances of channels, and from those and its input,
element by element, what is as large as the input. The first takes long and gives little, and is
kept; the second may be computed again for next to nothing. So the view reads such an op as two
nodes (see `graph/view.py`), and copies of the second are made of element-wise ops by the formula
here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Final

import tensorflow as tf

from nested_fad_tf.ops.entry import Attr, Cost
from nested_fad_tf.ops.expr import Expr, fn


@dataclasses.dataclass(frozen=True)
class Part:
    """One output of an op, and how it follows from inputs and other outputs.

    Attributes:
        op_type: What a node that stands for it alone is called.
        output: Which output it is.
        inputs: The op's inputs that it is computed from; the first ones, in order.
        others: The op's other outputs that it is computed from, besides.
        formula: Gives it from the values of both, in that order, and the op's attributes.
        cost: Class of its price.
    """

    op_type: str
    output: int
    inputs: tuple[int, ...]
    others: tuple[int, ...]
    formula: Callable[[tuple[Expr, ...], Attr], Expr]
    cost: Cost


def _normalized(read: tuple[Expr, ...], attr: Attr) -> Expr:
    x, scale, offset, mean, variance = read
    factor = fn("Rsqrt", variance + float(attr("epsilon"))) * scale
    return (x - mean) * factor + offset


# Of given means and variances: inference, or a layer that is frozen.
_GIVEN: Final = Part("FusedBatchNormV3.y", 0, (0, 1, 2, 3, 4), (), _normalized, Cost.MEDIUM)
# Of those of the batch, which the op's CPU kernel puts into its reserve spaces. GPU kernels keep
# other things there.
_OF_BATCH: Final = Part("FusedBatchNormV3.batch_y", 0, (0, 1, 2), (3, 4), _normalized, Cost.MEDIUM)

TABLE: Final[dict[str, Part]] = {part.op_type: part for part in (_GIVEN, _OF_BATCH)}


def part_of(op_type: str, attr: Attr, *, on_cpu: Callable[[], bool]) -> Part | None:
    """The part that an op is to be read apart from.

    Args:
        op_type: The op's type.
        attr: Its attributes.
        on_cpu: Asked whether it is known to run on a CPU.

    Returns:
        The part; `None` if the op is one node.
    """
    if op_type != "FusedBatchNormV3" or attr("T") != tf.float32 or attr("U") != tf.float32:
        return None
    if attr("data_format") not in (b"NHWC", b"NDHWC"):  # channels have to be last to be broadcast
        return None
    if not attr("is_training"):
        return _GIVEN
    return _OF_BATCH if on_cpu() else None
