"""Training under tf.distribute, in processes of its own, plain and rewritten.

Logical devices and clusters have to be set up before TensorFlow starts, so these tests drive
scripts/distributed_demo, which says itself where the two trainings part.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

from nested_fad_tf.bench import cluster

ROOT = pathlib.Path(__file__).parents[2]


def demo(strategy, mode, tmp_path):
    results = tmp_path / "results.json"
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/distributed_demo", f"--strategies={strategy}",
         f"--modes={mode}", f"--json={results}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads(results.read_text(encoding="utf-8"))
    assert row["agrees"] and row["changed"]
    return row


@pytest.mark.parametrize("mode", ["fit", pytest.param("loop", marks=pytest.mark.slow)])
def test_two_replicas_in_one_process(mode, tmp_path):
    row = demo("mirrored", mode, tmp_path)
    assert row["peak"] < 0.5 * row["plain_peak"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["fit", "loop"])
@pytest.mark.parametrize(
    ("strategy", "most"),
    [("multi_worker", 0.5), ("parameter_server", 1.0)],  # of the latter, the whole process
)
def test_several_processes(strategy, most, mode, tmp_path):
    pytest.importorskip("tf_keras", reason="tf_keras is not installed; pip install tf_keras")
    row = demo(strategy, mode, tmp_path)
    assert row["peak"] < most * row["plain_peak"]


@pytest.mark.slow
def test_workers_of_fit_are_not_profiled():
    """They may crash of it: see `Recording`."""
    pytest.importorskip("tf_keras", reason="tf_keras is not installed; pip install tf_keras")
    request = {"strategy": "multi_worker", "mode": "fit", "rewritten": True, "model": "dense"}
    found = cluster.run({**request, "measured": False})
    assert found["changed"]
    assert found["peak_bytes"] is None
