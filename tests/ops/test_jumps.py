"""The ops whose results jump, found by looking on both sides of where thresholds are."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from comparing import NOT_RUN, numbers
from op_samples import SHAPES, Op, ordinary, runs

from nested_fad_tf.ops import jumps
from nested_fad_tf.ops.elementwise import TABLE

# Where ops change what they do.
THRESHOLDS = (-1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 6.0)
NEAR = 1e-9
# Larger results are of a pole nearby, which is no jump; smaller differences are of a steep slope.
LARGEST, LEAST = 1e3, 1e-4


def runs_in_float64(name: str) -> bool:
    """Whether it has a kernel for numbers between which near is near enough."""
    op = Op(name)
    inputs = ordinary(op, tf.float64)
    return tf.float32 not in op.dtypes(tf.float64) and runs(
        lambda: op(inputs, **op.attrs(tf.float64))
    )


NAMES = [n for n in sorted(TABLE) if n not in NOT_RUN | SHAPES.keys() and runs_in_float64(n)]


def jumps_at(op: Op, inputs: list[tf.Tensor], index: int, threshold: float) -> bool:
    sides = []
    for x in (threshold - NEAR, threshold, threshold + NEAR):
        there = tf.fill(inputs[index].shape, tf.constant(x, tf.float64))
        moved = [there if i == index else t for i, t in enumerate(inputs)]
        sides.append(numbers(op(moved, **op.attrs(tf.float64))).astype(np.float64))
    tame = np.all([np.isfinite(s) & (np.abs(s) < LARGEST) for s in sides], axis=0)
    steps = np.abs(np.diff(sides, axis=0)).max(axis=0)
    return bool((steps[tame] > LEAST).any())


@pytest.mark.parametrize("name", NAMES)
def test_an_op_jumps_where_the_table_says(name: str) -> None:
    op, inputs = Op(name), ordinary(Op(name), tf.float64)
    read = op.dtypes(tf.float64)
    made = op(inputs, **op.attrs(tf.float64)).dtype
    for index in range(op.arity):
        says = jumps.jumps(name, read, [made], index)
        if not read[index].is_floating:
            assert not says
            continue
        if made.is_integer or made.is_bool:
            assert says
            continue
        # Division and remainder jump where one operand is a multiple of the other.
        twos = [tf.fill(t.shape, tf.cast(2, t.dtype)) for t in inputs]
        found = any(jumps_at(op, ts, index, at) for at in THRESHOLDS for ts in (inputs, twos))
        assert found == says, (index, found)
