"""What kernels allocate for themselves: told by the view, and seen by TensorFlow's profiler."""

import keras
import pytest
import tensorflow as tf

import nested_fad_tf as nfad
from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.plan.peak import simulate

CHANNELS, WINDOW = 128, 5
DENSE = WINDOW * WINDOW * CHANNELS * CHANNELS * 4


def grouped(groups=CHANNELS):
    return keras.layers.Conv2D(CHANNELS, WINDOW, padding="same", groups=groups)


def depthwise(filters=1):
    return keras.layers.DepthwiseConv2D(WINDOW, padding="same", depth_multiplier=filters)


def images():
    return tf.random.stateless_normal([4, 6, 6, CHANNELS], (1, 2))


def step_of(layer):
    layer.build(images().shape)

    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(layer(x)))
        return tape.gradient(loss, layer.trainable_variables)

    return step


def scratch_of(step, compiled=False):
    concrete = tf.function(step, jit_compile=compiled).get_concrete_function(images())
    view = GraphView.from_func_graph(concrete.graph, compiled=compiled)
    return sum(node.scratch for node in view.nodes), simulate(view).peak_bytes


@pytest.mark.parametrize(
    ("make_layer", "compiled"),
    [
        (grouped, False),  # compiled by Keras
        (grouped, True),
        (depthwise, True),
    ],
)
def test_the_filter_of_a_depthwise_convolution_is_dense_for_a_while(make_layer, compiled):
    step = step_of(make_layer())
    scratch, predicted = scratch_of(step, compiled)
    assert scratch == 2 * DENSE
    measured = nfad.measure(tf.function(step, jit_compile=compiled), images(), runs=1)
    assert predicted == pytest.approx(measured.peak_bytes, rel=0.1)


@pytest.mark.parametrize(
    ("make_layer", "compiled"),
    [
        (lambda: grouped(CHANNELS // 2), False),
        (depthwise, False),
        (lambda: depthwise(2), True),
    ],
)
def test_other_kernels_do_without(make_layer, compiled):
    step = step_of(make_layer())
    scratch, predicted = scratch_of(step, compiled)
    assert scratch == 0
    measured = nfad.measure(tf.function(step, jit_compile=compiled), images(), runs=1)
    # Too small for TensorFlow's own scratch and XLA's alignment not to be seen.
    assert measured.peak_bytes < predicted + DENSE // 4


def test_a_gpu_has_kernels_for_groups():
    step = step_of(grouped())

    def elsewhere(x):
        with tf.device("/GPU:0"):
            return step(x)

    assert scratch_of(elsewhere)[0] == 0
