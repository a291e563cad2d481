"""SavedModels whose matrix products and convolutions compute an input again for their gradients."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from taking import BATCH, CASES, LENGTH, OPTIONS, WEIGHTS, WIDTH, W, X
from tensorflow.core.protobuf import saved_model_pb2
from traced import mish

import nested_fad_tf as nfad

SCRIPT = pathlib.Path(__file__).with_name("saved_model_derivatives.py")


def looped(x):
    """A body that runs several times, with a branch in it.

    Nothing loaded can be differentiated, plain or not, where a loop's body reads a variable.
    """
    h = tf.reshape(x, [-1, WIDTH])
    a, b, c, d = map(tf.identity, W)
    for index in tf.range(3):
        h = mish(h @ a) @ b
        h = tf.cond(index == 1, lambda h=h: mish(h @ c) @ d, lambda h=h: h + 1)
    return h


def named(cases, dynamic):
    """A name, a function and an argument for each case."""
    for function, x in cases:
        shape = [None if dynamic else x.shape[0], *x.shape[1:]]
        traced = tf.function(function, input_signature=[tf.TensorSpec(shape)])
        yield f"{function.__name__}_{'any' if dynamic else 'fixed'}", traced, x


def functions(folder):
    """The functions in a SavedModel."""
    model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    return model.meta_graphs[0].graph_def.library.function


@pytest.fixture(scope="module", params=["ops", "xla"])
def folders(request, tmp_path_factory):
    """A model with a function for each case, and its rewrite."""
    folder = tmp_path_factory.mktemp(request.param)
    module = tf.Module()
    module.weights = WEIGHTS
    cases = [*CASES, (looped, X)]
    found = [*named(cases, False), *named(cases, True)]
    for name, function, _ in found:
        setattr(module, name, function)
    tf.saved_model.save(module, folder / "model")
    np.savez(folder / "data.npz", **{name: x for name, _, x in found})
    options = OPTIONS.replace(nominal_size=BATCH * LENGTH, fuse=request.param)
    report = nfad.saved_model.rewrite(folder / "model", folder / "new", options)
    return folder, report, options


def test_all_derivatives_are_the_same_elsewhere(folders):
    folder, report, _ = folders
    rewritten = {f.function_name for f in report.functions if f.changed}
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    names = ("model", "new", "data.npz")
    command = [sys.executable, str(SCRIPT), *(str(folder / name) for name in names)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 2 * (5 * len(CASES) + 3)
    assert rewritten >= {function.__name__ for function, _ in CASES}
    assert {k: v for k, v in found.items() if not v < 3e-5} == {}


def test_rewriting_again_does_no_harm(folders):
    folder, first, options = folders
    report = nfad.saved_model.rewrite(folder / "new", folder / "again", options)
    assert [f.function_name for f in report.functions if f.changed] == []
    known = {(e.name, e.kept_bytes_before) for e in report.entry_points}
    assert known >= {(e.name, e.kept_bytes_after) for e in first.entry_points}
    assert list(functions(folder / "again")) == list(functions(folder / "new"))
