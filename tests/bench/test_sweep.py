"""Trade-offs side by side."""

from __future__ import annotations

import dataclasses
import json
import types

import tensorflow as tf

import nested_fad_tf as nfad
from nested_fad_tf.bench import models, runner, sweep, variants


def small(name):
    """Three dense layers: a model of the benchmark in small."""
    weights = [tf.ones([64, 64]) for _ in range(3)]

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            y = x
            for w in weights:
                y = tf.nn.gelu(y @ w)
            loss = tf.reduce_mean(y)
        return tf.add_n([tf.reduce_sum(g) for g in tape.gradient(loss, weights)])

    return types.SimpleNamespace(step=step, inputs=(tf.ones([4096, 64]),))


def test_a_label_says_which_tradeoff(monkeypatch):
    seen = []
    monkeypatch.setattr(nfad, "function", lambda f, options, **kwargs: seen.append(options))
    variants.wrap(lambda x: x, "auto:tradeoff=0.25")
    variants.wrap(lambda x: x, "recompute")
    assert [(o.strategy, o.tradeoff) for o in seen] == [("auto", 0.25), ("recompute", 1.0)]


def test_the_dearer_a_second_the_more_is_kept(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(models, "build", small)
    path = tmp_path / "sweep.json"
    tradeoffs = (0.0, 1.0, 8.0, 100.0)
    results = sweep.run_sweep(["mish_mlp"], json_path=path, tradeoffs=tradeoffs)
    rows = results["sweep"]
    assert [row["tradeoff"] for row in rows] == list(tradeoffs)
    peaks = [row["predicted"] for row in rows]
    again = [row["again_seconds"] for row in rows]
    assert peaks == sorted(peaks)
    assert peaks[0] < peaks[-1] <= rows[0]["predicted_before"]
    assert again == sorted(again, reverse=True)
    assert again[0] > again[-1] >= 0
    assert rows[0]["peak"] is rows[0]["ratio"] is None

    content = json.loads(path.read_text())
    assert content["results"] == json.loads(json.dumps(results))
    assert content["prices"] == "fitted by hand to step times on CPUs"
    assert "computed again s" in capsys.readouterr().out


def row(tradeoff, time, memory):
    return sweep.SweepRow("m", "auto", tradeoff, 9, 9, 0.0, memory, 9, time)


def test_the_front_is_what_nothing_beats():
    rows = [row(0, 1.5, 10), row(1, 1.2, 10), row(2, 1.1, 30), row(3, 1.0, 20), row(4, 1.0, 20)]
    assert [r.best for r in sweep.with_front(rows)] == [False, True, False, True, True]


def test_what_was_measured_decides_about_the_front(monkeypatch, capsys):
    def memory(model, label, how):
        return fake_row(runner.MemoryRow, model, label, peak=50, plain_peak=100)

    def times(names, labels, how):
        ratios = dict(zip(labels, (1.2, 1.1), strict=True)) | {runner.CONTROL: 1.0}
        return [fake_row(runner.TimeRow, names[0], k, ratio=r) for k, r in ratios.items()], []

    monkeypatch.setattr(models, "build", small)
    monkeypatch.setattr(runner, "memory_row", memory)
    monkeypatch.setattr(runner, "time_rows", times)
    results = sweep.run_sweep(["mish_mlp"], what=("memory", "time"), tradeoffs=(0.0, 100.0))
    assert [(r["peak"], r["ratio"], r["best"]) for r in results["sweep"]] == [
        (50, 1.2, False),
        (50, 1.1, True),
    ]
    output = capsys.readouterr().out
    assert "measured memory and measured time" in output
    assert "plain TensorFlow against itself" in output


def fake_row(kind, model, label, **known):
    """A row of a benchmark with zeros for all that is not known."""
    names = [field.name for field in dataclasses.fields(kind)]
    return kind(**{**dict.fromkeys(names, 0), "model": model, "strategy": label, **known})
