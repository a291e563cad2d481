"""What the planner takes to be the work of ops that a budget may compute again."""

from __future__ import annotations

import math

import pytest
import tensorflow as tf
from traced import nodes, view_of

from nested_fad_tf.ops import heavy
from nested_fad_tf.ops.heavy import TABLE

F32 = tf.float32


def spec(*shape):
    return tf.TensorSpec(shape, F32)


def work_of(op_type, function, *specs):
    (node,) = nodes(view_of(function, *specs), op_type)
    return TABLE[op_type].work(node.inputs, node.outputs, node.attr)


@pytest.mark.parametrize("op_type", sorted(TABLE))
def test_tensorflow_knows_the_op(op_type):
    assert hasattr(tf.raw_ops, op_type)


RAW = tf.raw_ops
COUNTED = [
    ("MatMul", lambda a, b: a @ b, [(8, 32), (32, 5)], 8 * 32 * 5),
    ("MatMul", lambda a, b: tf.matmul(a, b, transpose_a=True), [(32, 8), (32, 5)], 8 * 32 * 5),
    ("MatMul", lambda a, b: tf.matmul(a, b, transpose_b=True), [(8, 32), (5, 32)], 8 * 32 * 5),
    ("BatchMatMul", lambda a, b: RAW.BatchMatMul(x=a, y=b), [(7, 8, 32), (7, 32, 5)], 7 * 1280),
    ("BatchMatMulV2", tf.matmul, [(7, 3, 8, 32), (7, 3, 32, 5)], 21 * 1280),
    (
        "BatchMatMulV3",
        lambda a, b: RAW.BatchMatMulV3(x=a, y=b, Tout=F32),
        [(7, 8, 32), (7, 32, 5)],
        7 * 1280,
    ),
    ("Einsum", lambda a, b: tf.einsum("abc,cd->abd", a, b), [(2, 3, 4), (4, 5)], 2 * 3 * 4 * 5),
    ("Einsum", lambda a, b: tf.einsum("bqhd,bkhd->bhqk", a, b), [(2, 6, 3, 4), (2, 7, 3, 4)], 1008),
    (
        "Conv2D",
        lambda x, k: tf.nn.conv2d(x, k, 1, "SAME"),
        [(2, 10, 10, 3), (3, 3, 3, 8)],
        200 * 8 * 27,
    ),
    (
        "Conv2D",
        lambda x, k: tf.nn.conv2d(x, k, 2, "SAME"),
        [(2, 10, 10, 3), (3, 3, 3, 8)],
        50 * 8 * 27,
    ),
    (
        "Conv3D",
        lambda x, k: tf.nn.conv3d(x, k, [1] * 5, "SAME"),
        [(1, 4, 4, 4, 3), (2, 2, 2, 3, 5)],
        64 * 5 * 24,
    ),
    (
        "Conv2DBackpropInput",
        lambda x, k: tf.nn.conv2d_transpose(x, k, [2, 10, 10, 3], 2),
        [(2, 5, 5, 8), (3, 3, 3, 8)],
        50 * 8 * 27,
    ),
    (
        "Conv3DBackpropInputV2",
        lambda x, k: tf.nn.conv3d_transpose(x, k, [1, 4, 4, 4, 3], 2),
        [(1, 2, 2, 2, 5), (2, 2, 2, 3, 5)],
        8 * 5 * 24,
    ),
    (
        "DepthwiseConv2dNative",
        lambda x, k: tf.nn.depthwise_conv2d(x, k, [1] * 4, "SAME"),
        [(2, 10, 10, 3), (3, 3, 3, 1)],
        600 * 9,
    ),
    # A fifth of a pass for each of a window's elements.
    ("MaxPool", lambda x: tf.nn.max_pool2d(x, 2, 2, "SAME"), [(2, 10, 10, 3)], 0.2 * 150 * 4),
    ("AvgPool", lambda x: tf.nn.avg_pool2d(x, 3, 1, "SAME"), [(2, 10, 10, 3)], 0.2 * 600 * 9),
    ("MaxPool3D", lambda x: tf.nn.max_pool3d(x, 2, 2, "SAME"), [(1, 4, 4, 4, 3)], 0.2 * 24 * 8),
    ("AvgPool3D", lambda x: tf.nn.avg_pool3d(x, 2, 2, "SAME"), [(1, 4, 4, 4, 3)], 0.2 * 24 * 8),
    ("Sum", tf.reduce_sum, [(20, 30)], 600),
    ("Softmax", tf.nn.softmax, [(20, 30)], 6 * 600),
    ("Cumsum", tf.cumsum, [(20, 30)], 3 * 600),
    ("LRN", tf.nn.local_response_normalization, [(2, 4, 4, 8)], 6 * 256),
    (
        "ResizeBilinear",
        lambda x: tf.compat.v1.image.resize_bilinear(x, [8, 8]),
        [(2, 4, 4, 3)],
        3 * 384,
    ),
    ("FusedBatchNormV3", None, [(2, 8, 8, 4)], 3 * 512),
]


def normalised(x):
    ones = tf.ones(x.shape[-1])
    none = tf.zeros(0)
    return RAW.FusedBatchNormV3(
        x=x, scale=ones, offset=ones, mean=none, variance=none, data_format="NHWC"
    )


@pytest.mark.parametrize(
    ("op_type", "function", "shapes", "expected"),
    COUNTED,
    ids=[f"{row[0]}-{i}" for i, row in enumerate(COUNTED)],
)
def test_work_is_what_one_counts_by_hand(op_type, function, shapes, expected):
    if function is None:
        with tf.Graph().as_default() as graph:
            op = normalised(tf.zeros(shapes[0])).y.op
        values = [_Tensor(t) for t in (*op.inputs, *op.outputs)]
        work = TABLE[op_type].work(values[: len(op.inputs)], values[len(op.inputs) :], op.get_attr)
        assert graph is not None
    else:
        work = work_of(op_type, function, *(spec(*shape) for shape in shapes))
    assert work == pytest.approx(expected)


class _Tensor:
    """What `heavy.Tensor` asks for, of a tensor in a graph."""

    def __init__(self, tensor):
        self.dtype = tensor.dtype
        self.shape = None if tensor.shape.rank is None else tuple(tensor.shape.as_list())
        self.nbytes = math.prod(d or 32 for d in self.shape or ()) * tensor.dtype.size


@pytest.mark.parametrize("case", [0, 3, 4, 6, 8, 13, 14, 18, 19, 20])
def test_unknown_dimensions_count_as_their_nominal_size(case):
    op_type, function, shapes, _ = COUNTED[case]
    first, *rest = shapes
    unknown, known = (spec(n, *first[1:]) for n in (None, 32))
    others = [spec(None, *s[1:]) if op_type.startswith("BatchMatMul") else spec(*s) for s in rest]
    same = [spec(32, *s[1:]) if op_type.startswith("BatchMatMul") else spec(*s) for s in rest]
    work = work_of(op_type, function, unknown, *others)
    expected = work_of(op_type, function, known, *same)
    assert math.isfinite(work) and work > 0
    # An einsum of which a dimension isn't known, and stacks of unknown height, are guessed at.
    if op_type not in ("Einsum", "BatchMatMul", "BatchMatMulV2"):
        assert work == pytest.approx(expected)


@pytest.mark.parametrize("op_type", ["MatMul", "Conv2D", "DepthwiseConv2dNative", "Softmax"])
def test_an_unknown_rank_is_no_error(op_type):
    tensors = [_Unknown(), _Unknown(), _Unknown()]
    assert TABLE[op_type].work(tensors, tensors[:1], {}.get) >= 0


class _Unknown:
    shape, nbytes, dtype = None, 4 * 32, F32


def test_larger_is_more_work():
    for side in (16, 64, 256):
        product = work_of("MatMul", tf.matmul, spec(side, side), spec(side, side))
        assert product == side**3
        assert product > heavy.elements(_Tensor(tf.zeros([side, side])))
