"""TensorFlow's gradients read what the table says."""

from __future__ import annotations

import pytest
import tensorflow as tf

from nested_fad_tf.ops import views
from nested_fad_tf.ops.gradient_reads import GRADIENT_READS

raw = tf.raw_ops
IMAGE, VOLUME = [2, 8, 8, 4], [2, 4, 4, 4, 3]
ONES = [1, 1, 1, 1]


def conv_input(w, dy):
    sizes = tf.constant(IMAGE)
    return raw.Conv2DBackpropInput(
        input_sizes=sizes, filter=w, out_backprop=dy, strides=ONES, padding="SAME"
    )


def batch_norm(x, scale, offset):
    return raw.FusedBatchNormV3(
        x=x, scale=scale, offset=offset, mean=tf.zeros([0]), variance=tf.zeros([0])
    )


def labels(like):
    return tf.constant([1] * like.shape[0])


# Op type -> a call, and the shapes of the arguments that are differentiated.
SAMPLES = {
    "BatchMatMul": (lambda a, b: raw.BatchMatMul(x=a, y=b), [[2, 3, 4], [2, 4, 5]]),
    "BatchMatMulV2": (lambda a, b: raw.BatchMatMulV2(x=a, y=b), [[2, 3, 4], [2, 4, 5]]),
    "BatchMatMulV3": (
        lambda a, b: raw.BatchMatMulV3(x=a, y=b, Tout=tf.float32),
        [[2, 3, 4], [2, 4, 5]],
    ),
    "Conv2D": (
        lambda x, w: raw.Conv2D(input=x, filter=w, strides=ONES, padding="SAME"),
        [IMAGE, [3, 3, 4, 5]],
    ),
    "Conv2DBackpropInput": (conv_input, [[3, 3, 4, 5], [2, 8, 8, 5]]),
    "Conv3D": (
        lambda x, w: raw.Conv3D(input=x, filter=w, strides=[1] * 5, padding="SAME"),
        [VOLUME, [2, 2, 2, 3, 4]],
    ),
    "Cumprod": (lambda x: raw.Cumprod(x=x, axis=0), [[3, 4]]),
    "DepthwiseConv2dNative": (
        lambda x, w: raw.DepthwiseConv2dNative(input=x, filter=w, strides=ONES, padding="SAME"),
        [IMAGE, [3, 3, 4, 1]],
    ),
    "Einsum": (lambda a, b: raw.Einsum(inputs=[a, b], equation="ij,jk->ik"), [[2, 3], [3, 4]]),
    "FusedBatchNormV3": (batch_norm, [IMAGE, [4], [4]]),
    "L2Loss": (lambda x: raw.L2Loss(t=x), [[3, 4]]),
    "LogSoftmax": (lambda x: raw.LogSoftmax(logits=x), [[3, 4]]),
    "MatMul": (lambda a, b: raw.MatMul(a=a, b=b), [[2, 3], [3, 4]]),
    "Max": (lambda x: raw.Max(input=x, axis=0), [[3, 4]]),
    "MaxPool": (
        lambda x: raw.MaxPool(input=x, ksize=[1, 2, 2, 1], strides=[1, 2, 2, 1], padding="SAME"),
        [IMAGE],
    ),
    "Min": (lambda x: raw.Min(input=x, axis=0), [[3, 4]]),
    "Prod": (lambda x: raw.Prod(input=x, axis=0), [[3, 4]]),
    "Softmax": (lambda x: raw.Softmax(logits=x), [[3, 4]]),
    "SoftmaxCrossEntropyWithLogits": (
        lambda x: raw.SoftmaxCrossEntropyWithLogits(features=x, labels=tf.ones_like(x)),
        [[3, 4]],
    ),
    "SparseSoftmaxCrossEntropyWithLogits": (
        lambda x: raw.SparseSoftmaxCrossEntropyWithLogits(features=x, labels=labels(x)),
        [[3, 4]],
    ),
}


def needed(gradients, made_before) -> set[tf.Operation]:
    """Ops of the backward pass that the gradients are computed from."""
    found: set[tf.Operation] = set()
    stack = [g.op for g in gradients if g is not None]
    while stack:
        op = stack.pop()
        if op in found or op in made_before:
            continue
        found.add(op)
        stack.extend(t.op for t in op.inputs)
    return found


@pytest.mark.parametrize("op_type", GRADIENT_READS)
def test_the_gradient_reads_these(op_type):
    call, shapes = SAMPLES[op_type]
    with tf.Graph().as_default() as graph:
        arguments = [tf.compat.v1.placeholder(tf.float32, shape) for shape in shapes]
        call(*arguments)
        (op,) = [o for o in graph.get_operations() if o.type == op_type]
        forward = set(graph.get_operations())
        backward = needed(tf.gradients(op.outputs[0], arguments), forward)
    reads = {t.name for b in backward if b.type not in views.SHAPE_ONLY for t in b.inputs}
    inputs, outputs = GRADIENT_READS[op_type]
    assert {i for i, t in enumerate(op.inputs) if t.name in reads and t.dtype.is_floating} == set(
        inputs
    )
    assert {i for i, t in enumerate(op.outputs) if t.name in reads} == set(outputs)
