from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from traced import mish, names, numbers

import nested_fad_tf as nfad
from nested_fad_tf import pipeline
from nested_fad_tf.emit import edit
from nested_fad_tf.graph import tracing
from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.plan import groups
from nested_fad_tf.plan.peak import simulate
from nested_fad_tf.plan.rewrite import Rewrite, RewriteBuilder
from nested_fad_tf.plan.wiring import Wiring

SIDE = 32
MATRIX = tf.TensorSpec([SIDE, SIDE])
OPTIONS = nfad.Options(fuse="ops", min_bytes=256, on_error="raise", strategy="recompute")


class Edited:
    """A step as it was traced, and as an edit left it."""

    def __init__(self, step, *specs, options=OPTIONS, rewrite=None):
        def observe(graph):
            if graph.outer_graph is not outer:
                return
            self.before = {op.name for op in graph.get_operations()}
            self.outputs = list(graph.outputs)
            self.signature = [t.name for t in graph.inputs]
            if rewrite is None:
                self.report = pipeline.rewrite_graph(graph, options)
            else:
                view = GraphView.from_func_graph(graph)
                edit.apply(graph, simulate(view, rewrite(view)), compiled=False)

        outer = tracing.outer_graph()
        with tracing.observing(observe):
            self.function = tf.function(step).get_concrete_function(*specs)
        self.graph = self.function.graph
        self.added = [op for op in self.graph.get_operations() if op.name not in self.before]

    def added_of(self, op_type: str) -> list[tf.Operation]:
        return [op for op in self.added if op.type == op_type]


def mish_step(x, w):
    with tf.GradientTape() as tape:
        tape.watch(w)
        y = x
        for i in range(3):
            with tf.name_scope(f"layer_{i}"):
                y = mish(y @ w)
        loss = tf.reduce_sum(y)
    return loss, tape.gradient(loss, w)


def arguments(count=2):
    return [numbers(SIDE, SIDE, seed=i, scale=SIDE**-0.5) for i in range(count)]


def assert_same(edited, step, *args):
    expected = tf.nest.flatten(tf.function(step)(*args))
    actual = tf.nest.flatten(edited.function(*args))
    assert len(actual) == len(expected)
    for got, want in zip(actual, expected, strict=True):
        want = np.asarray(want)
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * np.abs(want).max())


@pytest.fixture
def small_groups(monkeypatch):
    monkeypatch.setattr(groups, "_LEAST_SAVED", 0)


def test_new_ops_are_named_after_their_originals():
    edited = Edited(mish_step, MATRIX, MATRIX)
    assert edited.report.changed
    assert edited.added
    for op in edited.added:
        assert op.name.startswith("nested_fad/"), op.name
    assert {op.name for op in edited.added_of("Tanh")} >= {"nested_fad/layer_1/Tanh"}
    assert_same(edited, mish_step, *arguments())


def test_fused_ops_are_named_too(small_groups):
    edited = Edited(mish_step, MATRIX, MATRIX, options=OPTIONS.replace(fuse="xla"))
    assert edited.report.changed
    calls = [op for op in edited.added if "Call" in op.type]
    assert calls
    assert all(op.name.startswith("nested_fad/") for op in edited.added)
    assert all("/fused" in op.name for op in calls)
    assert_same(edited, mish_step, *arguments())


def test_outputs_and_arguments_are_the_same_tensors():
    edited = Edited(mish_step, MATRIX, MATRIX)
    assert all(a is b for a, b in zip(edited.graph.outputs, edited.outputs, strict=True))
    assert [t.name for t in edited.graph.inputs] == edited.signature
    (loss, gradient) = edited.function.structured_outputs
    assert (loss.shape, gradient.shape) == ((), (SIDE, SIDE))


def test_traced_ops_stay_what_they_are():
    plain = tf.function(mish_step).get_concrete_function(MATRIX, MATRIX).graph
    edited = Edited(mish_step, MATRIX, MATRIX)
    redirected = 0
    for op in plain.get_operations():
        now = edited.graph.get_operation_by_name(op.name)
        assert (now.type, now.device) == (op.type, op.device)
        assert names(now.outputs) == names(op.outputs)
        for was, reads in zip(op.inputs, now.inputs, strict=True):
            if was.name != reads.name:
                redirected += 1
                assert reads.op.name.startswith("nested_fad/")
                assert (reads.shape, reads.dtype) == (was.shape, was.dtype)
    assert redirected


def test_copies_have_their_originals_attributes():
    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            y = tf.nn.leaky_relu(tf.transpose(tf.exp(x @ w)), alpha=0.37)
            loss = tf.reduce_sum(tf.square(y @ w))
        return loss, tape.gradient(loss, w)

    def rewrite(view):
        builder = RewriteBuilder(view)
        (original,) = [n for n in view.nodes if n.op_type == "LeakyRelu"]
        copy = builder.add(
            "LeakyRelu", original.inputs, [(tf.float32, (SIDE, SIDE))], origin=original
        )
        reader, index = view.consumers[original.outputs[0].id][0]
        builder.redirect(reader, index, copy.outputs[0])
        return builder.build()

    edited = Edited(step, MATRIX, MATRIX, rewrite=rewrite)
    (copy,) = edited.added
    assert copy.get_attr("alpha") == pytest.approx(0.37)
    assert copy.name == "nested_fad/LeakyRelu"
    assert_same(edited, step, *arguments())


def test_devices_are_kept(small_groups):
    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            y = x
            for _ in range(3):
                with tf.device("/CPU:0"):
                    y = mish(y @ w)
            loss = tf.reduce_sum(y)
        return loss, tape.gradient(loss, w)

    for fuse in ("ops", "xla"):
        edited = Edited(step, MATRIX, MATRIX, options=OPTIONS.replace(fuse=fuse))
        copies = edited.added_of("Tanh")
        # Named after its last op: the product of the activation.
        copies += [op for op in edited.added if op.name.startswith("nested_fad/mul")]
        assert copies
        assert all("CPU:0" in op.device for op in copies)
        assert_same(edited, step, *arguments())


def test_without_a_device_none_is_set():
    edited = Edited(mish_step, MATRIX, MATRIX)
    assert {op.device for op in edited.added} == {""}


def test_control_inputs_of_stateful_ops_are_kept():
    counter = tf.Variable(0.0)

    def step(x, w):
        loss, gradient = mish_step(x, w)
        counter.assign_add(1.0)
        with tf.control_dependencies([gradient]):
            counter.assign(counter * 2.0)
        return loss, gradient

    plain = tf.function(step).get_concrete_function(MATRIX, MATRIX).graph
    edited = Edited(step, MATRIX, MATRIX)
    assert edited.report.changed
    checked = 0
    for op in plain.get_operations():
        if op._is_stateful:
            now = edited.graph.get_operation_by_name(op.name)
            assert set(names(op.control_inputs)) <= set(names(now.control_inputs))
            checked += bool(op.control_inputs)
    assert checked
    assert set(names(edited.graph.control_outputs)) == set(names(plain.control_outputs))
    edited.function(*arguments())
    assert counter.numpy() == 2.0
    edited.function(*arguments())
    assert counter.numpy() == 6.0


def test_who_waits_for_a_fused_op_waits_for_its_group(small_groups):
    variable = tf.Variable(0.0)

    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            h = x @ w
            a = tf.tanh(h)
            with tf.control_dependencies([a]):
                variable.assign_add(1.0)
            loss = tf.reduce_sum(tf.exp(a) @ w)
        return loss, tape.gradient(loss, w)

    def rewrite(view):
        roles = pipeline.find_roles(view)
        found = groups.find_groups(Wiring(view, Rewrite()), roles, 256, choosy=False)
        return Rewrite(groups=found)

    edited = Edited(step, MATRIX, MATRIX, rewrite=rewrite)
    (assign,) = [op for op in edited.graph.get_operations() if op.type == "AssignAddVariableOp"]
    amount = assign.inputs[1].op  # this is what TensorFlow lets wait
    assert ["Call" in op.type for op in amount.control_inputs] == [True]
    assert_same(edited, step, *arguments())
    assert variable.numpy() == 2.0


def test_released_nodes_wait_for_nothing():
    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            y = tf.math.sin(x @ w)
        return tape.gradient(y, w)

    def rewrite(view):
        builder = RewriteBuilder(view)
        (factor,) = [n for n in view.nodes if n.op_type == "Cos"]
        assert factor.controls
        builder.release(factor)
        return builder.build()

    edited = Edited(step, MATRIX, MATRIX, rewrite=rewrite)
    (factor,) = [op for op in edited.graph.get_operations() if op.type == "Cos"]
    assert not factor.control_inputs
    assert not edited.added
    assert_same(edited, step, *arguments())


def test_control_dependencies_left_open_around_the_trace_are_not_inherited():
    @nfad.function(options=OPTIONS)
    def inner(x, w):
        return mish_step(x, w)

    @tf.function
    def outer(x, w):
        with tf.control_dependencies([tf.exp(x)]), tf.name_scope("around"):
            return inner(x, w)

    expected = tf.function(mish_step)(*arguments())
    actual = outer(*arguments())
    np.testing.assert_allclose(actual[1], expected[1], rtol=1e-4, atol=1e-5)
    assert inner.reports[-1].changed


def test_colocated_ops_are_copied():
    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            y = x
            for _ in range(3):
                h = y @ w
                with tf.compat.v1.colocate_with(h.op):
                    y = mish(h)
            loss = tf.reduce_sum(y)
        return loss, tape.gradient(loss, w)

    edited = Edited(step, MATRIX, MATRIX)
    assert edited.report.changed
    copies = edited.added_of("Tanh")
    assert copies
    groups_before = {
        tuple(edited.graph.get_operation_by_name(name).colocation_groups())
        for name in edited.before
        if name.startswith("Tanh")
    }
    assert all(tuple(copy.colocation_groups()) in groups_before for copy in copies)
    assert_same(edited, step, *arguments())


def test_an_empty_rewrite_changes_nothing():
    edited = Edited(mish_step, MATRIX, MATRIX, rewrite=lambda view: Rewrite())
    plain = tf.function(mish_step).get_concrete_function(MATRIX, MATRIX).graph
    assert not edited.added
    assert edited.graph.as_graph_def() == plain.as_graph_def()
