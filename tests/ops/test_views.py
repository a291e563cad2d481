"""Whether views share their input's buffer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from nested_fad_tf.ops import views

ARGUMENTS: dict[str, dict[str, Any]] = {
    "Bitcast": {"type": tf.int32},
    "CheckNumerics": {"message": ""},
    "CheckNumericsV2": {"message": ""},
    "EnsureShape": {"shape": [64, 1, 64]},
    "ExpandDims": {"axis": 0},
    "PlaceholderWithDefault": {"shape": [64, 1, 64]},
    "Reshape": {"shape": [32, 128]},
}


def address(tensor: tf.Tensor) -> int:
    # The buffer protocol gives the tensor's own memory, unlike numpy(), which copies it.
    return np.asarray(memoryview(tensor)).__array_interface__["data"][0]


@pytest.mark.parametrize("op_type", sorted(views.ALIASES))
def test_aliases_share_the_buffer_of_an_input_that_lives_on(op_type: str) -> None:
    x = tf.random.uniform([64, 1, 64])
    first = "tensor" if op_type in ("CheckNumerics", "CheckNumericsV2", "Reshape") else "input"
    y = getattr(tf.raw_ops, op_type)(**{first: x}, **ARGUMENTS.get(op_type, {}))
    assert address(y) == address(x)


def test_pairwise_aliases_share_the_buffers_of_their_inputs() -> None:
    inputs = [tf.random.uniform([64]), tf.random.uniform([64])]
    # The barrier has no kernel: it is for compilers.
    for op_type in views.PAIRWISE_ALIASES - {"XlaOptimizationBarrier"}:
        outputs = getattr(tf.raw_ops, op_type)(input=inputs)
        assert [address(y) for y in outputs] == [address(x) for x in inputs]


@pytest.mark.parametrize("op", [tf.raw_ops.Snapshot, tf.raw_ops.Neg])
def test_what_copies_is_no_alias(op: Any) -> None:
    x = tf.random.uniform([64])
    y = op(input=x) if op is tf.raw_ops.Snapshot else op(x=x)
    assert address(y) != address(x)
