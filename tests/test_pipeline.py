from __future__ import annotations

import gc
import time

import numpy as np
import pytest
import tensorflow as tf
from absl import logging
from traced import mish, names, numbers, trace, view_of

import nested_fad_tf as nfad
from nested_fad_tf import pipeline
from nested_fad_tf.graph.roles import find_roles
from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.plan import peak

SIDE = 32
MATRIX = tf.TensorSpec([SIDE, SIDE])
OPTIONS = nfad.Options(fuse="ops", min_bytes=256)


def step(x, w):
    with tf.GradientTape() as tape:
        tape.watch(w)
        y = x
        for _ in range(3):
            y = mish(y @ w)
        loss = tf.reduce_sum(y)
    return loss, tape.gradient(loss, w)


@pytest.fixture
def warnings(monkeypatch):
    """What is logged; nothing was warned of before."""
    seen: list[str] = []
    monkeypatch.setattr(pipeline, "_warned", set())
    monkeypatch.setattr(logging, "warning", lambda text, *args: seen.append(text % args))
    return seen


@pytest.fixture
def broken(monkeypatch):
    def fail(*args):
        raise RuntimeError("it broke")

    monkeypatch.setattr(pipeline, "make_plan", fail)


def test_without_applying_the_graph_stays_as_it_is():
    graph = trace(step, MATRIX, MATRIX)
    before = graph.as_graph_def()
    start = time.perf_counter()
    report = pipeline.rewrite_graph(graph, OPTIONS, apply=False)
    assert report.changed
    assert 0 < report.seconds < time.perf_counter() - start
    assert graph.as_graph_def() == before


def test_applying_changes_the_graph_in_place():
    graph = trace(step, MATRIX, MATRIX)
    before = len(graph.get_operations())
    report = pipeline.rewrite_graph(graph, OPTIONS)
    assert report.changed
    assert len(graph.get_operations()) > before
    # What the plan predicted is what a look at the graph as it is now says.
    now = peak.simulate(GraphView.from_func_graph(graph))
    assert now.peak_bytes == report.predicted_peak_after
    assert now.nodes == report.nodes_after


def test_without_a_gradient_nothing_is_done_and_the_report_says_so():
    graph = trace(lambda x, w: tf.nn.relu(x @ w) @ w, MATRIX, MATRIX)
    report = pipeline.rewrite_graph(graph, OPTIONS)
    assert not report.changed
    assert report.reason.startswith("no gradient is computed")
    assert report.nodes_before == report.nodes_after == len(graph.get_operations())
    assert report.gradient_seeds == ()


def test_where_nothing_is_gained_the_report_says_so():
    def relu_step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            loss = tf.reduce_sum(tf.nn.relu(tf.nn.relu(x @ w) @ w))
        return tape.gradient(loss, w)

    graph = trace(relu_step, MATRIX, MATRIX)
    before = graph.as_graph_def()
    report = pipeline.rewrite_graph(graph, OPTIONS)
    assert not report.changed
    assert report.reason.startswith("nothing to be gained")
    assert report.kept_bytes_after == report.kept_bytes_before > 0
    assert graph.as_graph_def() == before


@pytest.mark.parametrize("strategy", ["auto", "recompute", "forward_ad"])
def test_a_plan_never_has_a_higher_peak(strategy):
    view = view_of(step, MATRIX, MATRIX)
    plan = pipeline.make_plan(view, find_roles(view), OPTIONS.replace(strategy=strategy))
    assert plan.strategy == strategy
    assert plan.after.peak_bytes <= plan.before.peak_bytes
    assert bool(plan.rewrite) == (plan.reason == "")


def test_a_plan_is_made_without_touching_the_graph():
    graph = trace(step, MATRIX, MATRIX)
    before = graph.as_graph_def()
    view = GraphView.from_func_graph(graph)
    nodes = [(n.name, names(n.inputs), names(n.controls)) for n in view.nodes]
    roles = find_roles(view)
    first = pipeline.make_plan(view, roles, OPTIONS)
    second = pipeline.make_plan(view, roles, OPTIONS)
    assert graph.as_graph_def() == before
    assert nodes == [(n.name, names(n.inputs), names(n.controls)) for n in view.nodes]
    assert names(first.rewrite.nodes) == names(second.rewrite.nodes)
    assert first.rewrite.redirects.keys() == second.rewrite.redirects.keys()
    assert first.after.timeline == second.after.timeline
    assert [k.value.name for k in first.kept_after] == [k.value.name for k in second.kept_after]


def test_a_failure_falls_back_warns_once_and_is_reported(broken, warnings):
    rewritten = nfad.function(step, options=OPTIONS)
    w = numbers(SIDE, SIDE, scale=SIDE**-0.5)
    for rows in (SIDE, 2 * SIDE):
        x = numbers(rows, SIDE)
        expected = tf.function(step)(x, w)
        np.testing.assert_array_equal(rewritten(x, w)[1], expected[1])
    assert len(rewritten.reports) == 2
    for report in rewritten.reports:
        assert not report.changed
        assert report.reason == "the pass failed (RuntimeError: it broke)"
    (warning,) = warnings
    assert "step" in warning
    assert "RuntimeError: it broke" in warning
    assert "report" in warning


def test_another_failure_is_warned_of_again(monkeypatch, warnings):
    for text in ("one", "two", "one"):

        def fail(*args, text=text):
            raise RuntimeError(text)

        monkeypatch.setattr(pipeline, "make_plan", fail)
        nfad.function(step, options=OPTIONS).get_concrete_function(MATRIX, MATRIX)
    assert len(warnings) == 2


def test_a_failure_raises_where_that_is_asked_for(broken, warnings):
    rewritten = nfad.function(step, options=OPTIONS.replace(on_error="raise"))
    with pytest.raises(nfad.RewriteError, match="it broke") as caught:
        rewritten.get_concrete_function(MATRIX, MATRIX)
    assert "step" in str(caught.value)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert warnings == []


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collection_is_as_it_was(monkeypatch, enabled):
    was, during = gc.isenabled(), []
    make_plan = pipeline.make_plan

    def spy(*args):
        during.append(gc.isenabled())
        return make_plan(*args)

    monkeypatch.setattr(pipeline, "make_plan", spy)
    graph = trace(step, MATRIX, MATRIX)
    try:
        (gc.enable if enabled else gc.disable)()
        pipeline.rewrite_graph(graph, OPTIONS)
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if was else gc.disable)()
    assert during == [False]


def test_interrupts_are_not_swallowed(monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "make_plan", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pipeline.rewrite_graph(trace(step, MATRIX, MATRIX), OPTIONS)
    assert gc.isenabled()
