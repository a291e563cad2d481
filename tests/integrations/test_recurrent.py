"""Recurrent Keras layers: the same gradients and losses, in no more memory, or a reason."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest
import recurrent_models as models
import tensorflow as tf
from keras_training import assert_same, check

import nested_fad_tf as nfad

# Matrix products, splits and sigmoids keep their results in any case.
UNCHANGED = {
    "lstm", "lstm-unroll", "lstm-dropout-unroll", "lstm-mask", "lstm-mask-unroll",
    "lstm-stateful", "gru-stateful-unroll", "both-ave-mask",
}  # fmt: skip
MEASURED = [
    "lstm-stack", "lstm-dropout", "lstm-states", "gru-unroll", "simple", "simple-unroll",
    "both-concat", "convlstm", "cell",
]  # fmt: skip
REASONS = ("nothing to be gained:", "no gradient is computed", "the gradient of a loop:")


def is_rewritten(concrete) -> bool:
    """Whether ops were added to a function or to one that it calls, such as a loop's body."""
    graph = concrete.graph.as_graph_def()
    added = [n.name for n in graph.node]
    added += [n.name for function in graph.library.function for n in function.node_def]
    return any(name.startswith("nested_fad/") for name in added)


@pytest.mark.parametrize("name", models.MODELS)
def test_a_step(name):
    plain, arguments = models.step_of(name, tf.function)
    # Twice: dropout draws anew, and stateful layers go on.
    expected = [plain(*arguments) for _ in range(2)]
    rewritten, arguments = models.step_of(name, models.rewritten)
    assert_same([rewritten(*arguments) for _ in range(2)], expected)
    concrete = rewritten.get_concrete_function(*arguments)
    assert is_rewritten(concrete) == (name not in UNCHANGED)
    report = rewritten.reports[-1]
    assert report.changed or report.reason.startswith(REASONS)


@pytest.mark.parametrize(
    "name",
    [
        "lstm",
        "convlstm",
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("gru-mask-dropout", "simple-mask", "both-concat", "cells")
        ),
    ],
)
def test_fit(name):
    make, x = models.MODELS[name]
    model = check(
        make, fires=name not in UNCHANGED, options=models.OPTIONS, x=x, y=models.TARGETS,
        batch_size=models.BATCH // 4,
    )  # fmt: skip
    for report in nfad.keras.reports(model):
        assert report.changed or report.reason.startswith(REASONS)


@pytest.mark.parametrize(
    "names", [["lstm-stack", "simple", "cell"], pytest.param(MEASURED, marks=pytest.mark.slow)]
)
def test_memory(names):
    """In a process of its own: small buffers are seen without oneDNN, peaks vary with threads."""
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}
    done = subprocess.run(
        [sys.executable, pathlib.Path(models.__file__), *names],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    peaks = {n: (before, after) for n, before, after in map(json.loads, done.stdout.splitlines())}
    assert list(peaks) == names
    for name, (before, after) in peaks.items():
        assert 0 < after <= 1.02 * before, name
    assert peaks["cell"][1] < 0.8 * peaks["cell"][0]
