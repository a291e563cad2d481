from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from traced import names, node, nodes, trace, view_of

from nested_fad_tf.graph.nodes import describe
from nested_fad_tf.graph.sizes import size_in_bytes
from nested_fad_tf.graph.view import GraphView

X = tf.TensorSpec([8, 16])


def test_a_chain_of_views_shares_one_buffer():
    def step(x):
        a = tf.tanh(x)
        b = tf.reshape(tf.expand_dims(a, 0), [16, 8])
        c = tf.squeeze(tf.reshape(tf.stop_gradient(tf.identity(b)), [1, 128]))
        return tf.exp(c)

    view = view_of(step, X)
    root = node(view, "Tanh").outputs[0]
    chain = [n for n in view.nodes if n.outputs and n.outputs[0].storage is root]
    assert {n.op_type for n in chain} == {
        "Tanh", "ExpandDims", "Reshape", "Identity", "StopGradient", "Squeeze",
    }  # fmt: skip
    assert node(view, "Exp").outputs[0].storage is node(view, "Exp").outputs[0]
    assert all(v.nbytes == 512 for n in chain for v in n.outputs)


def test_every_output_of_an_identity_n_is_its_own_input():
    def step(x):
        a, b = tf.raw_ops.IdentityN(input=[tf.tanh(x), tf.identity(tf.exp(x))])
        return tf.sin(a), tf.cos(b)

    view = view_of(step, X)
    first, second = node(view, "IdentityN").outputs
    assert first.storage is node(view, "Tanh").outputs[0]
    assert second.storage is node(view, "Exp").outputs[0]


def test_a_view_of_an_argument_is_the_argument():
    view = view_of(lambda x: tf.tanh(tf.reshape(x, [-1])), X)
    assert node(view, "Reshape").outputs[0].storage is node(view, "x").outputs[0]


@pytest.mark.parametrize(
    ("change", "shared"),
    [
        (lambda a: a * 1.0, True),
        (lambda a: 1.0 * a, True),
        (lambda a: a + 0.0, True),
        (lambda a: 0.0 + a, True),
        (lambda a: a - 0.0, True),
        (lambda a: a / 1.0, True),
        (lambda a: a * 2.0, False),
        (lambda a: a * 0.0, False),
        (lambda a: a + 1.0, False),
        (lambda a: 0.0 - a, False),
        (lambda a: 1.0 / a, False),
        (lambda a: a * tf.ones([16]), False),
        (lambda a: tf.pow(a, 1.0), True),
        (lambda a: tf.pow(a, tf.constant(2.0) - tf.constant(1.0)), True),
        (lambda a: tf.pow(a, tf.constant(3.0) - tf.constant(1.0)), False),
        (lambda a: tf.pow(1.0, a), False),
    ],
)
def test_an_op_with_a_neutral_number_shares_its_operands_buffer(change, shared):
    view = view_of(lambda x: tf.exp(change(tf.tanh(x))), X)
    tanh, read = node(view, "Tanh").outputs[0], node(view, "Exp").inputs[0]
    assert read is not tanh
    assert (read.storage is tanh) == shared


def test_a_product_with_one_that_broadcasts_owns_its_buffer():
    view = view_of(lambda x: tf.exp(tf.tanh(x) * tf.ones([4, 1, 1])), X)
    assert node(view, "Mul").outputs[0].storage is node(view, "Mul").outputs[0]


def test_of_unknown_shapes_only_plain_views_are_known_to_share():
    view = view_of(lambda x: tf.exp(tf.reshape(tf.tanh(x) * 1.0, [-1])), tf.TensorSpec([None, 16]))
    product = node(view, "Mul").outputs[0]
    assert product.storage is product
    assert node(view, "Reshape").outputs[0].storage is product


def test_unknown_dimensions_count_at_their_nominal_size():
    spec = tf.TensorSpec([None, 16, None], tf.bfloat16)
    for nominal in (1, 32, 100):
        view = view_of(tf.tanh, spec, nominal=nominal)
        assert node(view, "Tanh").outputs[0].nbytes == nominal * 16 * nominal * 2
        assert not node(view, "Tanh").outputs[0].static


def test_of_an_unknown_rank_nothing_is_known():
    view = view_of(tf.tanh, tf.TensorSpec(None))
    value = node(view, "Tanh").outputs[0]
    assert value.shape is None
    assert value.nbytes == 0
    assert not value.static
    assert str(value.shape) not in repr(value)
    assert repr(value) == "Tanh:0 float32[...]"


@pytest.mark.parametrize(
    ("dtype", "shape", "expected"),
    [
        (tf.float32, (2, 3), 24),
        (tf.float64, (2, 3), 48),
        (tf.bool, (2, 3), 6),
        (tf.float32, (), 4),
        (tf.float32, (0, 3), 0),
        (tf.float32, (None, 3), 120),
        (tf.string, (2, 3), 0),
        (tf.resource, (), 0),
        (tf.variant, (7,), 0),
    ],
)
def test_sizes(dtype, shape, expected):
    assert size_in_bytes(dtype, shape, nominal=10) == expected


def test_descriptions():
    assert describe(tf.float32, (8, None, 2)) == "float32[8,?,2]"
    assert describe(tf.bool, ()) == "bool[]"


def test_constants_are_read_and_what_is_computed_is_not():
    def step(x):
        return x * tf.constant([[1.0], [2.0]]) + tf.fill([2, 2], 3.0) * x

    view = view_of(step, tf.TensorSpec([2, 2]))
    constant = node(view, "Mul").inputs[1] if len(nodes(view, "Mul")) == 1 else None
    constant = constant or nodes(view, "Mul")[0].inputs[1]
    np.testing.assert_array_equal(view.constant(constant), [[1.0], [2.0]])
    assert view.constant(constant) is view.constant(constant)
    assert view.constant(nodes(view, "Mul")[0].outputs[0]) is None
    assert view.constant(node(view, "x").outputs[0]) is None


def test_what_is_made_of_constants_depends_on_no_call():
    def step(x):
        ones = tf.ones_like(tf.fill([3], 2.0))
        noise = tf.random.uniform([3])
        with tf.control_dependencies([x]):
            late = tf.identity(tf.constant(1.0))
        return ones + x, tf.exp(ones), noise, late

    view = view_of(step, tf.TensorSpec([3]))
    found = {n.op_type for n in view.nodes if n.id in view.made_of_constants}
    assert {"Const", "Fill", "Exp"} <= found
    assert not found & {"AddV2", "Placeholder", "RandomUniform"}
    late = view.outputs[-1].node
    assert late.op_type == "Identity" and late.id not in view.made_of_constants


def test_arguments_are_parameters_and_captures():
    variable, captured = tf.Variable([1.0, 2.0]), tf.constant(np.arange(400.0, dtype=np.float32))

    def step(x):
        return x + variable, tf.reduce_sum(captured)

    view = view_of(step, tf.TensorSpec([2]))
    arguments = [view.values[i] for i in sorted(view.arguments)]
    assert {v.node.op_type for v in arguments} == {"Placeholder"}
    assert sorted(v.dtype.name for v in arguments) == ["float32", "float32", "resource"]
    assert node(view, "ReadVariableOp").outputs[0].id not in view.arguments


def test_outputs_come_in_order_and_without_what_is_none():
    def step(x):
        a, b = tf.tanh(x), tf.exp(x)
        return {"second": b, "first": a, "none": None, "again": b}

    view = view_of(step, X)
    produced = [v.storage.node.op_type for v in view.outputs]
    assert produced == ["Exp", "Tanh", "Exp"]  # keys in order: again, first, second


def test_control_inputs_and_outputs():
    variable = tf.Variable(1.0)

    def step(x):
        a = tf.tanh(x)
        with tf.control_dependencies([a]):
            b = tf.exp(x)
        variable.assign_add(1.0)
        return b

    view = view_of(step, X)
    assert names(node(view, "Exp").controls) == ["Tanh"]
    assert node(view, "Exp").inputs == [node(view, "x").outputs[0]]
    assert node(view, "Tanh").controls == []
    assert "AssignAddVariableOp" in [n.op_type for n in view.control_outputs]


def test_consumers_say_at_which_input():
    def step(x):
        a = tf.tanh(x)
        return a * a + tf.exp(a)

    view = view_of(step, X)
    readers = view.consumers[node(view, "Tanh").outputs[0].id]
    assert [(r.op_type, i) for r, i in readers] == [("Mul", 0), ("Mul", 1), ("Exp", 0)]


def test_attributes_devices_and_state():
    def step(x):
        with tf.device("/CPU:0"):
            a = tf.reduce_sum(x, axis=1, keepdims=True)
        return a + tf.random.uniform([8, 1])

    view = view_of(step, X)
    total = node(view, "Sum")
    assert total.attr("keep_dims") is True
    assert total.attr("T") == tf.float32
    assert total.attr("no such attribute") is None
    assert "CPU:0" in total.device
    assert not total.stateful
    assert node(view, "RandomUniform").stateful
    assert node(view, "RandomUniform").device == ""


def test_reading_a_graph_leaves_it_alone():
    graph = trace(lambda x: tf.reshape(tf.tanh(x) * 1.0, [-1]), X)
    before = graph.as_graph_def()
    view = GraphView.from_func_graph(graph)
    assert graph.as_graph_def() == before
    assert [n.id for n in view.nodes] == list(range(len(view.nodes)))
    assert [v.id for v in view.values] == list(range(len(view.values)))
    assert all(v.node.id < n.id for n in view.nodes for v in n.inputs)
    assert names(view.nodes) == [op.name for op in graph.get_operations()]


def test_calls_and_control_flow_are_single_nodes():
    @tf.function
    def inner(x):
        return tf.tanh(x)

    def step(x):
        y = inner(x)
        _, y = tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, tf.sin(y)), (0, y))
        return y

    view = view_of(step, X)
    kinds = {n.op_type for n in view.nodes}
    assert kinds & {"PartitionedCall", "StatefulPartitionedCall"}
    assert kinds & {"While", "StatelessWhile"}
    assert not kinds & {"Tanh", "Sin"}
    assert view.outputs[0].shape == (8, 16)


def test_sizes_where_tensorflow_loses_track_of_a_shape():
    """With an unknown batch the gradient of a product sums to [?, ?] in between."""

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.tanh(x) * tf.sigmoid(x)
        return tape.gradient(y, x)

    graph = tf.function(step).get_concrete_function(tf.TensorSpec([None, 8])).graph
    view = GraphView.from_func_graph(graph, 100)
    unknown = [v for v in view.values if v.shape == (None, None)]
    assert {v.node.op_type for v in unknown} >= {"Sum"}
    assert {v.nbytes for v in unknown} == {100 * 8 * 4}


def test_sizes_of_what_is_spread_along_an_unknown_dimension():
    def step(x, y):
        return tf.expand_dims(x, 1) * tf.expand_dims(y, 0) + 1.0

    specs = [tf.TensorSpec([None])] * 2
    view = GraphView.from_func_graph(tf.function(step).get_concrete_function(*specs).graph, 100)
    sizes = {v.node.op_type: v.nbytes for v in view.values}
    assert sizes["Mul"] == sizes["AddV2"] == 100 * 100 * 4


def windows(images):
    """Cuts images into windows whose number is computed, and puts them together again."""
    batch, height, width = (tf.shape(images)[i] for i in range(3))
    cut = tf.reshape(images, [batch, height // 4, 4, width // 4, 4, 16])
    return tf.reshape(tf.transpose(cut, [0, 1, 3, 2, 4, 5]), [-1, 4 * 4, 16])


def test_what_is_rearranged_is_as_large_as_before():
    view = view_of(windows, tf.TensorSpec([None, None, None, 16]), nominal=8)
    (moved,) = node(view, "Transpose").outputs
    assert moved.shape is not None and moved.shape.count(None) == 3
    assert moved.nbytes == 8 * 8 * 8 * 16 * 4


@pytest.mark.parametrize(
    ("taken", "op_type"),
    [
        (lambda x: x[: tf.shape(x)[0] // 2, 1:], "StridedSlice"),
        (lambda x: tf.slice(x, [0, 1], [-1, -1]), "Slice"),
        (lambda x: tf.split(x, 2), "Split"),
        (lambda x: tf.cond(x[0, 0] > 0, lambda: x[1:], lambda: x[:, 1:]), "StatelessIf"),
    ],
)
def test_what_is_taken_of_something_is_no_larger(taken, op_type):
    def step(x, shape):
        return taken(tf.reshape(x, shape))

    view = view_of(step, tf.TensorSpec([None, 3]), tf.TensorSpec([2], tf.int32), nominal=100)
    values = [v for n in nodes(view, op_type) for v in n.outputs if v.shape == (None, None)]
    assert {v.nbytes for v in values} == {100 * 3 * 4}  # and not 100 * 100 * 4


def test_sizes_of_what_is_added_to_something_whole():
    """The scores of windows and a mask for each of them: as large as the scores."""

    def step(x, mask):
        scores = tf.reshape(x, [-1, tf.shape(mask)[0], 2, tf.shape(x)[1], tf.shape(x)[1]])
        return tf.nn.softmax(scores + mask[:, None]), mask[:, None, 0] + mask[0, 0]

    specs = tf.TensorSpec([None, None, 2]), tf.TensorSpec([None, None, None])
    view = view_of(step, *specs, nominal=10)
    masked, spread = (n.outputs[0].nbytes for n in nodes(view, "AddV2"))
    assert masked == node(view, "Softmax").outputs[0].nbytes == 10 * 10 * 2 * 4
    assert spread == 10 * 10 * 4
