"""Graphs to look at: what is left out, what things are called, what stands for what is kept."""

from __future__ import annotations

import pytest
import tensorflow as tf
from traced import mish, numbers

import nested_fad_tf as nfad
from nested_fad_tf import pipeline
from nested_fad_tf.graph import tracing
from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.plan import groups
from nested_fad_tf.report import step_runs
from nested_fad_tf.report.shown_graph import KEPT_FOR_BACKWARD, shown

SIDE = 32
SQUARE = tf.TensorSpec([SIDE, SIDE])
OPTIONS = nfad.Options(min_bytes=256, on_error="raise", strategy="recompute")


def mish_step(x, w):
    with tf.GradientTape() as tape:
        tape.watch(w)
        for i in range(3):
            with tf.name_scope(f"layer_{i}"):
                x = mish(x @ w)
        loss = tf.reduce_sum(x)
    return loss, tape.gradient(loss, w)


def dropout_step(x, w):
    with tf.GradientTape() as tape:
        tape.watch(w)
        for i in range(3):
            with tf.name_scope(f"layer_{i}"):
                mask = tf.random.stateless_uniform([SIDE, SIDE], [i, 0]) > 0.5
                x = tf.where(mask, tf.exp(x @ w), 0.0)
        loss = tf.reduce_sum(x)
    return loss, tape.gradient(loss, w)


def watched(step, **options):
    """The view of a step before its rewrite, and the report and the graph after it."""
    seen = []

    def observe(graph):
        report = pipeline.rewrite_graph(graph, OPTIONS.replace(**options), watch=seen.append)
        assert report.changed
        seen.append((report, graph))

    with tracing.observing(observe):
        tf.function(step).get_concrete_function(SQUARE, SQUARE)
    return seen


def runs_of(step, **options):
    """By run: nodes by name, of a step and its rewrite."""
    view, (report, graph) = watched(step, **options)
    made = step_runs.runs(report, view, graph)
    return {run.name: {node.name: node for node in run.graph.node} for run in made}


def reads(node):
    return [name.lstrip("^").partition(":")[0] for name in node.input]


@pytest.fixture
def small_groups(monkeypatch):
    monkeypatch.setattr(groups, "_LEAST_SAVED", 0)


@pytest.mark.parametrize(
    ("step", "strategy", "fuse"),
    [
        (mish_step, "recompute", "ops"),
        (mish_step, "recompute", "xla"),
        (mish_step, "forward_ad", "xla"),
        (dropout_step, "recompute", "ops"),
        (dropout_step, "recompute", "xla"),
    ],
)
def test_every_node_reads_what_is_shown(small_groups, step, strategy, fuse):
    for nodes in runs_of(step, strategy=strategy, fuse=fuse).values():
        assert all(name in nodes for node in nodes.values() for name in reads(node))
        assert not any(node.op == "PartitionedCall" for node in nodes.values())
        assert not any(name.startswith("nested_fad/") for name in nodes)


def test_the_original_is_the_traced_graph_with_what_is_kept():
    graph = tf.function(mish_step).get_concrete_function(SQUARE, SQUARE).graph
    original = runs_of(mish_step)["original"]
    added = original.keys() - {op.name for op in graph.get_operations()}
    assert added == {name for name, n in original.items() if n.op == KEPT_FOR_BACKWARD}
    assert {"layer_1/kept/Tanh", "layer_1/kept/mul"} <= added


def test_dead_ops_are_left_out():
    def step(x, w):
        tf.exp(x, name="unused")
        return mish_step(x, w)

    assert "unused" not in runs_of(step)["original"]


def test_a_fused_group_is_one_scope_named_after_its_layer(small_groups):
    nodes = runs_of(mish_step, fuse="xla")["rewritten"]
    inside = {n for n in nodes if n.startswith("fused_layer_1/")}
    assert {"fused_layer_1/Tanh", "fused_layer_1/Softplus", "fused_layer_1/mul"} <= inside
    assert "layer_1/Tanh" not in nodes
    assert nodes["layer_1/matmul"].op == "MatMul"
    clusters = {nodes[n].attr["_XlaCluster"].s for n in inside if "/kept/" not in n}
    assert clusters == {b"fused_layer_1"}


def test_recomputed_ops_stand_apart(small_groups):
    fused = runs_of(mish_step, fuse="xla")["rewritten"]
    copy = fused["gradient_tape/fused_layer_1/recomputed/Tanh"]
    assert [d.size for d in copy.attr["_output_shapes"].list.shape[0].dim] == [SIDE, SIDE]
    plain = runs_of(mish_step, fuse="ops")["rewritten"]
    again = [name for name in plain if "/nested_fad/recomputed/" in name]
    assert "gradient_tape/layer_1/nested_fad/recomputed/Tanh" in again
    assert all(name.startswith("gradient_tape/layer_") for name in again)


def test_what_is_kept_has_its_size_and_its_reason(small_groups):
    nodes = runs_of(mish_step, fuse="ops")["rewritten"]
    kept = {name: n for name, n in nodes.items() if n.op == KEPT_FOR_BACKWARD}
    assert kept
    for name, node in kept.items():
        assert node.attr["size"].s == b"0.00 MiB"  # 4 KiB
        assert node.attr["why"].s
        (shape,) = node.attr["_output_shapes"].list.shape
        assert [d.size for d in shape.dim] == [SIDE, SIDE]
        readers = [other for other, n in nodes.items() if name in reads(n)]
        assert readers
        assert all(other.startswith("gradient_tape/") for other in readers)


def test_a_derivative_is_kept_and_its_product_is_no_recomputation(small_groups):
    nodes = runs_of(mish_step, strategy="forward_ad", fuse="xla")["rewritten"]
    assert nodes["fused_layer_1/kept/derivative"].op == KEPT_FOR_BACKWARD
    product = nodes["gradient_tape/nested_fad/gradient/AddN_1"]
    assert "fused_layer_1/kept/derivative" in product.input
    assert not any("recomputed" in name for name in nodes)


def test_packed_masks_are_kept_by_their_layer():
    nodes = runs_of(dropout_step, fuse="ops")["rewritten"]
    assert any(name.startswith("layer_1/nested_fad/kept/Greater/bits") for name in nodes)
    unpacked = "gradient_tape/layer_1/nested_fad/recomputed/Greater/unpack"
    assert any(name.startswith(unpacked) for name in nodes)


def test_a_function_that_is_differentiated_from_outside():
    w = numbers(SIDE, SIDE)
    options = OPTIONS.replace(strategy="auto", fuse="ops")
    call = nfad.rewrite(lambda x: mish(x @ w) @ w, SQUARE, options=options)
    assert call.reports[-1].changed
    graph = call.get_concrete_function(SQUARE).graph
    nodes = {n.name: n for n in shown(GraphView.from_func_graph(graph), (), ()).node}
    assert all(name in nodes for node in nodes.values() for name in reads(node))
    assert any(name.startswith("nested_fad/kept/mul/") for name in nodes)


def test_functions_of_loops_are_kept():
    def step(x, w):
        y = tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y @ w), [0, x])[1]
        return mish_step(y, w)

    seen = []
    with tracing.observing(lambda graph: seen.append(graph)):
        tf.function(step).get_concrete_function(SQUARE, SQUARE)
    graph = shown(GraphView.from_func_graph(seen[-1]), (), ())
    (loop,) = [n for n in graph.node if "While" in n.op]
    functions = {f.signature.name for f in graph.library.function}
    assert {loop.attr["body"].func.name, loop.attr["cond"].func.name} <= functions


@pytest.mark.parametrize("strategy", ["auto", "forward_ad"])
@pytest.mark.parametrize("fuse", ["ops", "xla"])
def test_what_is_kept_for_a_gradient_from_outside(strategy, fuse):
    w = numbers(SIDE, SIDE)

    def call(x, unused):
        for i in range(3):
            with tf.name_scope(f"layer_{i}"):
                x = mish(x @ w)
        return x @ w

    view, (report, graph) = watched(call, strategy=strategy, fuse=fuse)
    for run, kept in zip(
        step_runs.runs(report, view, graph), (report.kept_before, report.kept), strict=True
    ):
        nodes = {node.name: node for node in run.graph.node}
        markers = [n for n in nodes.values() if n.op == KEPT_FOR_BACKWARD]
        assert all(name in nodes for node in nodes.values() for name in reads(node))
        # The result of the last layer is kept by what reads it, whatever is done to the layers.
        assert len(markers) == len(kept) >= 4
        assert {n.attr["why"].s.decode() for n in markers} == {k.why for k in kept}
        assert any("layer_1/" in n.name and "/kept/" in n.name for n in markers)
        assert run.kept == kept
