"""Whether views share their input's buffer."""

from __future__ import annotations

from collections.abc import Callable
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


raw = tf.raw_ops
MOVES: dict[str, Callable[[tf.Tensor], Any]] = {
    "ConjugateTranspose": lambda x: raw.ConjugateTranspose(x=x, perm=[1, 0, 3, 2]),
    "DepthToSpace": lambda x: raw.DepthToSpace(input=x, block_size=2),
    "Reverse": lambda x: raw.Reverse(tensor=x, dims=[True, False, True, False]),
    "ReverseSequence": lambda x: raw.ReverseSequence(
        input=x, seq_lengths=[1, 2, 3, 4], seq_dim=1
    ),
    "ReverseV2": lambda x: raw.ReverseV2(tensor=x, axis=[0, 2]),
    "Roll": lambda x: raw.Roll(input=x, shift=[1], axis=[0]),
    "Slice": lambda x: raw.Slice(input=x, begin=[0, 1, 0, 0], size=[4, 2, 4, 4]),
    "Snapshot": lambda x: raw.Snapshot(input=x),
    "SpaceToDepth": lambda x: raw.SpaceToDepth(input=x, block_size=2),
    "Split": lambda x: raw.Split(axis=1, value=x, num_split=2),
    "SplitV": lambda x: raw.SplitV(value=x, size_splits=[1, 3], axis=1, num_split=2),
    "StridedSlice": lambda x: raw.StridedSlice(input=x, begin=[1], end=[3], strides=[1]),
    "Transpose": lambda x: raw.Transpose(x=x, perm=[1, 0, 3, 2]),
    "Unpack": lambda x: raw.Unpack(value=x, num=4, axis=1),
}  # fmt: skip


@pytest.mark.parametrize("op_type", sorted(views.REARRANGED | views.TAKEN))
def test_what_is_rearranged_is_all_there_and_what_is_taken_only_some(op_type: str) -> None:
    x = tf.reshape(tf.range(4**4, dtype=tf.float32), [4, 4, 4, 4])
    for output in tf.nest.flatten(MOVES[op_type](x)):
        left = set(np.ravel(output))
        assert len(left) == tf.size(output)
        assert left <= set(np.ravel(x))
        assert (len(left) == 4**4) == (op_type in views.REARRANGED)
