"""The MemoryReport callback: what it prints, measures and writes."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import logging
from keras_training import functional, train

import nested_fad_tf as nfad
from nested_fad_tf.report import allocations

SIDE = 256
ROWS = 1024


def wide():
    layers = [keras.layers.Dense(SIDE, activation="gelu") for _ in range(6)]
    return keras.Sequential([keras.Input([SIDE]), *layers, keras.layers.Dense(1)])


def fit_wide(optimized, epochs=2, rows=4 * ROWS, **callback):
    x = np.random.default_rng(0).standard_normal((rows, SIDE)).astype(np.float32)
    lines = []
    report = nfad.keras.MemoryReport(print_fn=lines.append, **callback)
    options = nfad.Options(on_error="raise")
    train(
        wide, optimized, options=options, x=x, y=x[:, :1], batch_size=ROWS, epochs=epochs,
        callbacks=[report],
    )  # fmt: skip
    return report, lines


def level(value):
    """A line in a chart; a single point is out of sight there."""
    return [(0, value), (1, value)]


def scalars(folder):
    found = {}
    for path in sorted(folder.glob("events*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    found.setdefault(value.tag, []).append(
                        (event.step, float(tf.make_ndarray(value.tensor)))
                    )
                elif value.tag:
                    found.setdefault(value.tag, []).append(value)
            if event.HasField("graph_def"):
                found["graph"] = tf.compat.v1.GraphDef.FromString(event.graph_def)
    return found


def test_what_it_measures_and_writes(tmp_path):
    report, lines = fit_wide(True, log_dir=tmp_path)
    plain, plain_lines = fit_wide(False)
    assert report.report.changed
    assert report.measured_peak <= plain.measured_peak / 1.8
    assert report.measured_peak == pytest.approx(report.report.predicted_peak_after, rel=0.1)
    assert report.step_seconds > 0
    assert any("predicted peak of the step" in line for line in lines)
    assert lines[-1] == f"measured peak of a step {report.measured_peak / 2**20:.2f} MiB"
    assert plain.report is None
    assert "nfad.keras.optimize" in plain_lines[0]

    written = scalars(tmp_path / "rewritten")
    assert written["measured_peak"] == level(report.measured_peak)
    assert written["predicted_peak"] == level(report.report.predicted_peak_after)
    assert [step for step, _ in written["step_seconds"]] == [0, 1]
    assert {"report", "kept_by_layer", "memory/predicted", "memory/measured"} <= written.keys()
    before = scalars(tmp_path / "original")
    assert before["predicted_peak"] == level(report.report.predicted_peak_before)
    assert before["kept_bytes"] == level(report.report.kept_bytes_before)
    assert "measured_peak" not in before
    kept = [sum("/kept/" in n.name for n in run["graph"].node) for run in (before, written)]
    assert kept[0] > kept[1] > 0
    assert not any("/fused_" in n.name for n in before["graph"].node)
    assert any("/fused_" in n.name for n in written["graph"].node)


def test_a_step_that_is_not_rewritten_is_the_original(tmp_path):
    report, _ = fit_wide(False, log_dir=tmp_path)
    assert [run.name for run in tmp_path.iterdir()] == ["original"]
    written = scalars(tmp_path / "original")
    assert written["measured_peak"] == level(report.measured_peak)
    assert "memory/measured" in written


def test_a_second_fit_whose_step_was_traced_before(tmp_path):
    x = np.random.default_rng(0).standard_normal((4 * ROWS, SIDE)).astype(np.float32)
    model = nfad.keras.optimize(wide(), nfad.Options(on_error="raise"))
    model.compile("sgd", "mse")
    model.fit(x, x[:, :1], batch_size=ROWS, verbose=0)
    lines = []
    callback = nfad.keras.MemoryReport(tmp_path, print_fn=lines.append)
    model.fit(x, x[:, :1], batch_size=ROWS, verbose=0, callbacks=[callback])
    written = scalars(tmp_path / "rewritten")
    assert callback.report.changed
    assert written["predicted_peak"] == level(callback.report.predicted_peak_after)
    assert "graph" not in written
    assert any("was traced before" in line for line in lines)


def test_inside_rewriting_and_the_progress_bar(capsys):
    model = wide()
    model.compile("adam", "mse")
    x = np.random.default_rng(0).standard_normal((4 * ROWS, SIDE)).astype(np.float32)
    report = nfad.keras.MemoryReport()
    with nfad.rewriting(nfad.Options(on_error="raise")) as session:
        model.fit(x, x[:, :1], batch_size=ROWS, epochs=2, callbacks=[report])
    assert report.report in session.reports
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    first = next(
        i for i, line in enumerate(lines) if line.startswith("one_step_on_data: rewritten")
    )
    assert lines[first - 1] == "Epoch 1/2"
    # The bars of both epochs end with their results, and the measurement stands between them.
    measured = next(i for i, line in enumerate(lines) if line.startswith("measured peak"))
    assert "Epoch 2/2" in lines[measured - 1 : measured + 2]
    assert sum("4/4" in line and "loss" in line for line in lines) >= 2


def test_fewer_steps_than_it_needs():
    report, lines = fit_wide(True, epochs=1, rows=2 * ROWS)
    assert report.report.changed
    assert report.measured_peak is None
    assert report.step_seconds is None
    assert not any("measured" in line for line in lines)
    # The profiler was stopped: it can be started again.
    assert fit_wide(True, epochs=1)[0].measured_peak


def test_where_nothing_is_rewritten_it_says_why():
    lines = []
    callback = nfad.keras.MemoryReport(print_fn=lines.append)
    train(functional, True, lambda: {"run_eagerly": True}, epochs=1, callbacks=[callback])
    assert "run_eagerly=True" in lines[0]


def test_while_another_profile_is_recorded(tmp_path):
    tf.profiler.experimental.start(str(tmp_path))
    try:
        report, _ = fit_wide(True, epochs=1)
    finally:
        tf.profiler.experimental.stop()
    assert report.report.changed
    assert report.measured_peak is None


def test_where_other_processes_take_part_the_profiler_is_not_started(monkeypatch):
    monkeypatch.setattr(allocations, "works_alone", lambda: False)
    warnings = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: warnings.append(text % args))
    report, lines = fit_wide(True, epochs=1)
    assert report.report.changed and lines
    assert report.measured_peak is None
    (warning,) = [text for text in warnings if "MemoryReport" in text]
    assert "works with others" in warning
    assert report.step_seconds > 0
