"""Products of the backward pass stay there when TensorFlow's graph optimizer has been at them."""

import numpy as np
import pytest
import tensorflow as tf
from traced import mish, numbers, optimized_nodes

import nested_fad_tf as nfad

SIDE = 64
LAYERS = 4
SQUARE = tf.TensorSpec([SIDE, SIDE])
OPTIONS = nfad.Options(fuse="ops", min_bytes=256, on_error="raise")
SCALE = tf.constant(numbers(SIDE, seed=3))


def scaled_by(scale):
    def layer(x, w):
        return tf.nn.softmax((x @ tf.transpose(mish(x @ w))) * scale) @ x

    return layer


LAYERS_BY_FACTOR = {
    "a constant": scaled_by(0.125),
    "a constant vector": scaled_by(SCALE),
    "a constant, divided by": lambda x, w: tf.nn.softmax((x @ tf.transpose(mish(x @ w))) / 8.0) @ x,
    "a mask, too": lambda x, w: (
        tf.nn.softmax((x @ tf.transpose(mish(x @ w))) * tf.nn.relu(w) * 0.125) @ x
    ),
}


def step_of(layer):
    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            for _ in range(LAYERS):
                x = layer(x, w)
            loss = tf.reduce_sum(x * x)
        return loss, tape.gradient(loss, w)

    return step


def early(nodes):
    """Products of the gradient's that read nothing of it."""

    def reads_gradient(name):
        inputs = [i.split(":")[0].lstrip("^") for i in nodes[name].input]
        return any("gradient_tape" in i and nodes[i].op != "Const" for i in inputs if i in nodes)

    return [
        name
        for name, node in nodes.items()
        if "gradient_tape" in name and node.op == "Mul" and not reads_gradient(name)
    ]


@pytest.mark.parametrize("factor", LAYERS_BY_FACTOR)
def test_no_product_of_the_backward_pass_runs_in_the_forward_pass(factor):
    step, arguments = step_of(LAYERS_BY_FACTOR[factor]), (numbers(SIDE, SIDE), numbers(SIDE, SIDE))
    plain = tf.function(step, input_signature=[SQUARE, SQUARE])
    rewritten = nfad.function(step, options=OPTIONS, input_signature=[SQUARE, SQUARE])
    nodes, rewritten_nodes = (optimized_nodes(f, *arguments) for f in (plain, rewritten))
    assert rewritten.reports[-1].changed
    assert len(early(nodes)) >= LAYERS - 1
    assert not early(rewritten_nodes)
    for a, b in zip(plain(*arguments), rewritten(*arguments), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.max(np.abs(a)))
