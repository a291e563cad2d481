"""nfad.tensorboard.compare: what it writes, and what it leaves as it was."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import tensorflow as tf
from traced import mish, numbers

import nested_fad_tf as nfad

SIDE = 128
OPTIONS = nfad.Options(min_bytes=1024, fuse="ops", on_error="raise")
SQUARE = tf.TensorSpec([SIDE, SIDE])


@pytest.fixture
def step():
    w = tf.Variable(numbers(SIDE, SIDE, scale=SIDE**-0.5))

    def train(x):
        with tf.GradientTape() as tape:
            for i in range(4):
                with tf.name_scope(f"layer_{i}"):
                    x = mish(x @ w)
            loss = tf.reduce_sum(x)
        w.assign_sub(0.1 * tape.gradient(loss, w))
        return loss

    train.variable = w
    return train


def written(run):
    """Values by tag, and the graph's nodes by name, of a run."""
    (file,) = run.iterdir()
    found = {}
    for event in tf.compat.v1.train.summary_iterator(str(file)):
        if event.graph_def:
            graph = tf.compat.v1.GraphDef.FromString(event.graph_def)
            found["graph"] = {node.name: node for node in graph.node}
        for value in event.summary.value:
            found[value.tag] = tf.make_ndarray(value.tensor)
    return found


def test_both_runs_hold_what_belongs_together(step, tmp_path):
    before = step.variable.numpy()
    report = nfad.tensorboard.compare(
        step, numbers(4096, SIDE), log_dir=tmp_path, options=OPTIONS, runs=1
    )
    assert report.changed
    assert sorted(run.name for run in tmp_path.iterdir()) == ["original", "rewritten"]
    original, rewritten = written(tmp_path / "original"), written(tmp_path / "rewritten")
    assert original["kept_bytes"] == report.kept_bytes_before
    assert rewritten["kept_bytes"] == report.kept_bytes_after
    assert original["predicted_peak"] == report.predicted_peak_before
    assert rewritten["predicted_peak"] == report.predicted_peak_after
    assert original["measured_peak"] > rewritten["measured_peak"] > 0
    for run, total in (
        (original, report.kept_bytes_before),
        (rewritten, report.kept_bytes_after),
    ):
        assert run["step_seconds"] > 0
        assert "| original | rewritten |" in run["report"].item().decode()
        left, right, sizes = run["kept_by_layer"].T
        assert (right - left == 1).all()
        assert sizes.sum() * 2**20 == pytest.approx(total)
        for tag in ("memory/predicted", "memory/measured", "kept/by_layer"):
            width, height, png = run[tag].tolist()
            assert png.startswith(b"\x89PNG")
            assert min(int(width), int(height)) > 100
    np.testing.assert_array_equal(original["kept_by_layer"].T[0], rewritten["kept_by_layer"].T[0])
    assert any("/recomputed/" in name for name in rewritten["graph"])
    # Measuring ran some steps; training did not move on.
    np.testing.assert_array_equal(step.variable.numpy(), before)


def test_specs_are_enough_where_nothing_is_measured(step, tmp_path):
    report = nfad.tensorboard.compare(step, SQUARE, log_dir=tmp_path, options=OPTIONS)
    rewritten = written(tmp_path / "rewritten")
    assert rewritten["predicted_peak"] == report.predicted_peak_after
    assert not {"measured_peak", "step_seconds", "memory/measured"} & rewritten.keys()


def test_without_matplotlib_there_are_no_images(step, tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(
        "absl.logging.log_first_n", lambda level, text, n, *args: warnings.append(text)
    )
    nfad.tensorboard.compare(step, SQUARE, log_dir=tmp_path, options=OPTIONS)
    rewritten = written(tmp_path / "rewritten")
    assert "kept_by_layer" in rewritten
    assert not any("/" in tag for tag in rewritten)
    assert "pip install nested-fad-tf[plots]" in warnings[0]


def test_a_step_that_is_left_as_it_was(tmp_path):
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.nn.relu(x @ x))
        return tape.gradient(loss, x)

    report = nfad.tensorboard.compare(step, SQUARE, log_dir=tmp_path, options=OPTIONS)
    assert not report.changed
    original, rewritten = written(tmp_path / "original"), written(tmp_path / "rewritten")
    assert original["graph"] == rewritten["graph"]
    assert "`step` was left as it was" in rewritten["report"].item().decode()


def test_a_pass_that_fails_leaves_two_equal_runs(step, tmp_path, monkeypatch):
    def fail(*args):
        raise ArithmeticError("no plan")

    monkeypatch.setattr("nested_fad_tf.pipeline.make_plan", fail)
    report = nfad.tensorboard.compare(
        step, SQUARE, log_dir=tmp_path, options=OPTIONS.replace(on_error="fallback")
    )
    assert "no plan" in report.reason
    original, rewritten = written(tmp_path / "original"), written(tmp_path / "rewritten")
    assert original["graph"] == rewritten["graph"]
    assert "predicted_peak" not in original


def test_a_function_that_is_differentiated_from_outside(tmp_path):
    w = numbers(SIDE, SIDE)
    report = nfad.tensorboard.compare(
        lambda x: mish(x @ w) @ w, SQUARE, log_dir=tmp_path, options=OPTIONS
    )
    assert report.changed
    original, rewritten = written(tmp_path / "original"), written(tmp_path / "rewritten")
    assert rewritten["kept_bytes"] < original["kept_bytes"]
    assert any("nested_fad/kept/" in name for name in rewritten["graph"])


def test_concrete_functions(step, tmp_path):
    concrete = tf.function(step).get_concrete_function(SQUARE)
    report = nfad.tensorboard.compare(concrete, log_dir=tmp_path, options=OPTIONS)
    assert report.changed
    original, rewritten = written(tmp_path / "original"), written(tmp_path / "rewritten")
    assert rewritten["kept_bytes"] < original["kept_bytes"]
