"""Kept tensors that wait in host memory."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest
import tensorflow as tf
from perceptrons import arguments, step_of

import nested_fad_tf as nfad
from nested_fad_tf.graph import devices

HERE = pathlib.Path(__file__).parent
# Whether all that is kept moves, or no more than it takes.
USED = {
    "all": False,
    "unknown batch": False,
    "compiled groups": False,
    "noisy": False,
    "met": False,
    "missed": True,
}
UNUSED = ["without", "met without", "on the host"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Of steps on one of two logical CPUs: see offloading.py."""
    path = tmp_path_factory.mktemp("offload") / "results.json"
    paths = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths}
    subprocess.run(
        [sys.executable, HERE / "offloading.py", path], check=True, env=environment, timeout=300
    )
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", [*USED, *UNUSED])
def test_the_step_stays_what_it_is(results, case):
    assert results[case]["changed"]
    assert results[case]["loss"] < 1e-6
    assert results[case]["gradients"] < 1e-5


@pytest.mark.parametrize(("case", "whole"), USED.items())
def test_what_is_kept_goes_to_the_host_and_comes_back(results, case, whole):
    result = results[case]
    moved = len(result["bytes_of_host_copies"])
    assert 0 < moved <= result["kept"]
    assert (moved == result["kept"]) is whole
    # They are in the graph that TensorFlow has optimized, and come back in time, not before.
    assert result["to_host"] == result["from_host"] == result["waiting"] == result["back"] == moved


@pytest.mark.parametrize("case", UNUSED)
def test_nothing_moves_that_needs_not(results, case):
    assert not results[case]["bytes_of_host_copies"]
    assert results[case]["to_host"] == 0


def test_peaks_fall(results):
    without = results["without"]["peak"]
    assert results["all"]["peak"] < 0.5 * without
    assert results["unknown batch"]["peak"] < 0.5 * without
    assert results["compiled groups"]["peak"] < 0.5 * without
    assert results["met"]["peak"] <= 1.01 * results["noisy"]["peak"]


def test_notes_say_what_came_of_it(results):
    moved = len(results["all"]["bytes_of_host_copies"])
    assert f"in host memory, {moved} of 16 tensors" in results["all"]["note"]
    assert "MiB is met by keeping" in results["met"]["note"]
    assert "is met by running" in results["met without"]["note"]
    assert "is not met: the least that was found is" in results["missed"]["note"]
    assert "isn't made on an accelerator" in results["on the host"]["note"]


def test_without_an_accelerator_nothing_happens():
    step, values = step_of(tf.nn.gelu), arguments()
    options = nfad.Options(on_error="raise")
    without = nfad.explain(step, *values, options=options)
    report = nfad.explain(step, *values, options=options.replace(offload=True))
    assert report.changed and report.predicted_peak_after == without.predicted_peak_after
    assert report.note.startswith("offload=True unused: ") and "accelerator" in report.note


def test_a_compiled_step_stays_on_its_device(monkeypatch):
    monkeypatch.setattr("nested_fad_tf.plan.offload.on_cpu", lambda _: False)
    options = nfad.Options(on_error="raise", offload=True)
    compiled = nfad.function(step_of(tf.nn.gelu), jit_compile=True, options=options)
    compiled.get_concrete_function(*arguments())
    (report,) = compiled.reports
    assert report.note.startswith("offload=True unused: jit_compile=True")


def test_a_device_of_another_task_has_its_own_host():
    assert devices.host_of("/job:worker/task:1/device:GPU:3") == "/job:worker/task:1/device:CPU:0"
    assert devices.host_of("") == "/device:CPU:0"
