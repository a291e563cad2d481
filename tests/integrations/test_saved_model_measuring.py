"""Signatures of SavedModels, run and differentiated on made-up inputs."""

import pytest
import tensorflow as tf

import nested_fad_tf as nfad
from nested_fad_tf.integrations.saved_model import comparing, measuring
from nested_fad_tf.report.tensorboard import ORIGINAL, REWRITTEN

WIDTH, BATCH, DEPTH = 256, 1024, 4
UNIT = 4 * WIDTH * BATCH
OPTIONS = nfad.Options(fuse="ops", on_error="raise", nominal_size=BATCH)


class Net(tf.Module):
    def __init__(self):
        super().__init__()
        self.weights = [
            tf.Variable(tf.random.stateless_normal([WIDTH, WIDTH], (7, i)) / WIDTH**0.5)
            for i in range(DEPTH)
        ]
        self.calls = tf.Variable(0.0, trainable=False)

    @tf.function(input_signature=[tf.TensorSpec([None, WIDTH]), tf.TensorSpec([], tf.int32)])
    def __call__(self, x, times):
        self.calls.assign_add(1.0)
        for weight in self.weights:
            x = tf.nn.gelu(x @ weight)
        return {"y": x * tf.cast(1 + times, tf.float32), "times": times}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)])
    def double(self, x):
        return {"y": 2 * x}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    module, path = Net(), tmp_path_factory.mktemp("measuring") / "model"
    signatures = {"serving_default": module.__call__, "double": module.double}
    tf.saved_model.save(module, path, signatures=signatures)
    return path


def test_original_and_rewritten(folder):
    before = tf.saved_model.load(folder).calls.numpy()
    runs = comparing.rewritten_runs(
        folder,
        OPTIONS,
        measure=lambda path: measuring.measure(path, "serving_default", BATCH, runs=2),
    )
    original, rewritten = runs
    assert [run.name for run in runs] == [ORIGINAL, REWRITTEN]
    assert rewritten.scalars["measured_peak"] < 0.75 * original.scalars["measured_peak"]
    # Inputs of products and of activations, and what is alive while gradients are computed.
    assert 2 * DEPTH * UNIT <= original.scalars["measured_peak"] <= 6 * DEPTH * UNIT
    assert all(run.scalars["step_seconds"] > 0 for run in runs)
    (timeline,) = original.timelines.values()
    assert timeline.points.keys() == {ORIGINAL, REWRITTEN}
    assert tf.saved_model.load(folder).calls.numpy() == before


def test_what_cannot_be_measured(folder):
    with pytest.raises(nfad.SavedModelError, match="the model has: 'double', 'serving_default'"):
        measuring.measure(folder, "train")
    with pytest.raises(nfad.SavedModelError, match="none of its outputs is a floating-point"):
        measuring.measure(folder, "double")
