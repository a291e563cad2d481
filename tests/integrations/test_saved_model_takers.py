"""SavedModels whose matrix products and convolutions compute an input again for their gradients."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from taking import (
    BATCH,
    CASES,
    LENGTH,
    OPTIONS,
    WEIGHTS,
    WIDTH,
    W,
    X,
    attention,
    convolution,
    dense,
    of_two,
)
from tensorflow.core.protobuf import saved_model_pb2
from traced import mish

import nested_fad_tf as nfad

SCRIPT = pathlib.Path(__file__).with_name("saved_model_derivatives.py")


def looped(x):
    """A body that runs several times, with a branch in it.

    Nothing loaded can be differentiated, plain or not, where a branch in a loop reads a variable.
    """
    h = tf.reshape(x, [-1, WIDTH])
    a, b, c, d = map(tf.identity, W)
    for index in tf.range(3):
        h = mish(h @ a) @ b
        h = tf.cond(index == 1, lambda h=h: mish(h @ c) @ d, lambda h=h: h + 1)
    return h


FUNCTIONS = [
    *((f, x) for f, x in CASES if f in (dense, attention, of_two, convolution)),
    (looped, X),
]


def functions(folder):
    """The functions in a SavedModel."""
    model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    return model.meta_graphs[0].graph_def.library.function


@pytest.fixture(scope="module", params=["ops", pytest.param("xla", marks=pytest.mark.slow)])
def folders(request, tmp_path_factory):
    """A model with a function for each case, and its rewrite.

    Plain ops are for any number of rows, compiled ones for this one.
    """
    folder = tmp_path_factory.mktemp(request.param)
    module = tf.Module()
    module.weights = WEIGHTS
    for function, x in FUNCTIONS:
        spec = tf.TensorSpec([None if request.param == "ops" else x.shape[0], *x.shape[1:]])
        setattr(module, function.__name__, tf.function(function, input_signature=[spec]))
    tf.saved_model.save(module, folder / "model")
    np.savez(folder / "data.npz", **{function.__name__: x for function, x in FUNCTIONS})
    options = OPTIONS.replace(nominal_size=BATCH * LENGTH, fuse=request.param)
    report = nfad.saved_model.rewrite(folder / "model", folder / "new", options)
    return folder, report, options


@pytest.mark.slow
def test_all_derivatives_are_the_same_elsewhere(folders):
    folder, _, _ = folders
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    names = ("model", "new", "data.npz")
    command = [sys.executable, str(SCRIPT), *(str(folder / name) for name in names)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 3 * len(FUNCTIONS) - 1
    assert {k: v for k, v in found.items() if not v < 3e-5} == {}


def test_results_are_computed_again(folders):
    folder, report, _ = folders
    chains = {f.function_name: len(f.chains) for f in report.functions}
    calls = {
        name: [n for n in f.node_def if "_nested_fad_gradient" in n.attr]
        for f in functions(folder / "new")
        for name in [f.signature.name.removeprefix("__inference_").rpartition("_")[0]]
    }
    for function, _ in FUNCTIONS[:-1]:
        name = function.__name__
        assert len(calls[name]) > chains[name] > 0, f"{name}: no op takes a copy"
    assert any("while_body" in name and len(found) > 1 for name, found in calls.items())


def test_rewriting_again_does_no_harm(folders):
    folder, first, options = folders
    report = nfad.saved_model.rewrite(folder / "new", folder / "again", options)
    assert [f.function_name for f in report.functions if f.changed] == []
    known = {(e.name, e.kept_bytes_before) for e in report.entry_points}
    assert known >= {(e.name, e.kept_bytes_after) for e in first.entry_points}
    assert list(functions(folder / "again")) == list(functions(folder / "new"))
