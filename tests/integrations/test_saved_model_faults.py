"""Damaged SavedModels give a clear error or a correct result, and nothing is left behind."""

import json
import pathlib
import subprocess
import sys

import pytest

from nested_fad_tf.bench import saved_models

SCRIPT = pathlib.Path(__file__).with_name("saved_model_faults.py")


@pytest.fixture(scope="module", params=[5, pytest.param(1, marks=pytest.mark.slow)])
def every(request):
    """Which cases are tried: each fifth, or all."""
    return request.param


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, every):
    """What came of each case, by its name."""
    folder = tmp_path_factory.mktemp("faults")
    saved_models.save("module", folder / "model", folder / "data.npz", small=True)
    command = [sys.executable, str(SCRIPT), str(folder), str(every)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"died at {lines[-1:]}: {done.stderr[-2000:]}"
    return {a["case"]: b for a, b in zip(lines[::2], lines[1::2], strict=True)}


def test_there_are_enough(outcomes, every):
    assert len(outcomes) >= 200 // every
    errors = [o["error"] for o in outcomes.values() if "error" in o]
    assert len(errors) >= 0.6 * len(outcomes)


def test_an_error_or_a_correct_result(outcomes):
    wrong = {name: o for name, o in outcomes.items() if "error" not in o and not o["same"]}
    assert not wrong


def test_errors_are_a_line_that_names_the_model(outcomes):
    for name, outcome in outcomes.items():
        if "error" in outcome:
            assert "\n" not in outcome["error"], name
            assert "broken" in outcome["error"], name
            assert len(outcome["error"]) < 600, name


def test_nothing_is_left_or_changed(outcomes):
    for name, outcome in outcomes.items():
        assert outcome["untouched"], name
        assert outcome["left"] == [], name
        assert not outcome["written"], name
