"""SavedModels: the same model after rewriting, for whoever loads it."""

import hashlib
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from traced import mish

import nested_fad_tf as nfad
from nested_fad_tf.bench import finetune, saved_models

OPTIONS = nfad.Options(fuse="ops", on_error="raise", min_bytes=64)
WIDTH = 32
X = tf.random.stateless_normal((16, WIDTH), (1, 2))


class Net(tf.Module):
    """Mish between matrix products; subclasses say in which form."""

    def __init__(self, depth=3):
        super().__init__()
        self.tuned = [
            tf.Variable(0.3 * tf.random.stateless_normal((WIDTH, WIDTH), (i, 1)))
            for i in range(depth)
        ]

    @tf.function(input_signature=[tf.TensorSpec([None, WIDTH])])
    def train(self, x):
        """The forward pass."""
        return self.body(x)

    def body(self, x):
        """The forward pass, as Python."""
        for weight in self.tuned:
            x = mish(x @ weight)
        return tf.reduce_sum(x, -1)


class Loop(Net):
    def body(self, x):
        stacked = tf.stack(self.tuned)
        for index in tf.range(len(self.tuned)):
            x = mish(x @ stacked[index])
        return tf.reduce_sum(x, -1)


class Branch(Net):
    def body(self, x):
        h = x @ self.tuned[0]
        return tf.reduce_sum(
            tf.cond(tf.reduce_sum(x) > 0, lambda: mish(h @ self.tuned[1]), lambda: tf.sin(h)), -1
        )


class Nested(Net):
    """The same inner function twice, and one that only it calls."""

    @tf.function
    def inner(self, x, weight):
        """One layer."""
        return mish(x @ weight)

    def body(self, x):
        for weight in self.tuned:
            x = self.inner(x, weight)
        return tf.reduce_sum(x, -1)


@tf.custom_gradient
def clipped(x):
    """A gradient of the user's own."""
    return tf.identity(x), lambda dy: tf.clip_by_value(dy, -0.1, 0.1)


class Custom(Net):
    def body(self, x):
        for weight in self.tuned:
            x = mish(clipped(x @ weight))
        return tf.reduce_sum(x, -1)


class Step(Net):
    """A whole training step, saved: its gradient is computed inside."""

    def __init__(self):
        super().__init__()
        self.rate = tf.Variable(0.1)

    def body(self, x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(super().body(x))
        for weight, gradient in zip(self.tuned, tape.gradient(loss, self.tuned), strict=True):
            weight.assign_sub(self.rate * tf.clip_by_value(gradient, -1.0, 1.0))
        return loss


def saved(module, tmp_path, **kwargs):
    """Saves a module and its rewrite."""
    keep = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
    tf.saved_model.save(module, tmp_path / "model", options=keep, **kwargs)
    report = nfad.saved_model.rewrite(tmp_path / "model", tmp_path / "new", OPTIONS)
    return tmp_path / "model", tmp_path / "new", report


def gradients(folder, second=False):
    """The output of a loaded model, and gradients, of first or second order."""
    model = tf.saved_model.load(folder)

    def step():
        with tf.GradientTape() as outer:
            with tf.GradientTape() as tape:
                tape.watch(X)
                y = model.train(X)
            found = tape.gradient(y, [X, *model.tuned])
            norm = tf.add_n([tf.reduce_sum(tf.square(g)) for g in found if g is not None])
        return y, found, outer.gradient(norm, model.tuned) if second else None

    return [t for t in tf.nest.flatten(tf.function(step)()) if t is not None]


def library(folder):
    """The functions in a SavedModel."""
    return meta_graph(folder).graph_def.library


def meta_graph(folder):
    """The graph of a SavedModel."""
    data = (pathlib.Path(folder) / "saved_model.pb").read_bytes()
    return saved_model_pb2.SavedModel.FromString(data).meta_graphs[0]


def digests(folder, but=()):
    """The contents of all files, by name."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name not in but)
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def assert_close(actual, expected):
    """Compares tensors by their largest entries."""
    for got, want in zip(actual, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=5e-6 * np.abs(want).max() + 1e-7)


@pytest.mark.parametrize("kind", [Net, Loop, Branch, Nested, Custom])
def test_gradients_are_the_same(kind, tmp_path):
    model, new, report = saved(kind(), tmp_path)
    assert report.changed
    assert report.kept_bytes_after < report.kept_bytes_before
    stored = {g.registered_op_type for g in library(new).registered_gradients}
    used = {
        node.attr["_gradient_op_type"].s.decode()
        for f in library(new).function
        for node in f.node_def
    }
    assert len(stored) > len(library(model).registered_gradients)
    assert stored >= used - {""}
    assert_close(gradients(new), gradients(model))


def test_static_shapes_of_added_ops_are_stored(tmp_path):
    _, new, _ = saved(Net(), tmp_path)
    added = [
        n for f in library(new).function for n in f.node_def if n.name.startswith("nested_fad")
    ]
    assert added
    for node in added:
        (shape,) = node.attr["_output_shapes"].list.shape
        assert [d.size for d in shape.dim] in ([-1, WIDTH], [2]), node.name


@pytest.mark.parametrize("kind", [Net, Nested])
def test_second_derivatives_are_the_same(kind, tmp_path):
    model, new, report = saved(kind(), tmp_path)
    assert report.changed
    assert_close(gradients(new, second=True), gradients(model, second=True))


def test_a_saved_step_trains_with_less(tmp_path):
    model, new, report = saved(Step(), tmp_path)
    assert report.changed
    (step,) = (f for f in report.functions if f.changed)
    assert step.predicted_peak_after < step.predicted_peak_before
    old, rewritten = tf.saved_model.load(model), tf.saved_model.load(new)
    for _ in range(3):
        assert_close([rewritten.train(X)], [old.train(X)])
    assert_close(rewritten.tuned, old.tuned)


def test_nothing_else_changes(tmp_path):
    data = tmp_path / "data.npz"
    saved_models.save("module", tmp_path / "model", data, small=True)
    before = digests(tmp_path / "model")
    report = nfad.saved_model.rewrite(tmp_path / "model", tmp_path / "new", OPTIONS)
    assert report.changed
    assert digests(tmp_path / "model") == before
    graph = {"saved_model.pb", "fingerprint.pb"}
    assert digests(tmp_path / "new", graph) == digests(tmp_path / "model", graph)
    assert digests(tmp_path / "new").keys() == before.keys()
    old, new = meta_graph(tmp_path / "model"), meta_graph(tmp_path / "new")
    assert new.signature_def == old.signature_def
    assert new.asset_file_def == old.asset_file_def
    assert new.graph_def.node == old.graph_def.node
    nodes = old.object_graph_def.nodes
    assert new.object_graph_def.nodes[: len(nodes)] == nodes[:]
    assert {n.WhichOneof("kind") for n in new.object_graph_def.nodes[len(nodes) :]} == {
        "captured_tensor"
    }
    fingerprint = tf.saved_model.experimental.read_fingerprint(str(tmp_path / "new"))
    assert fingerprint.saved_model_checksum


def test_ops_are_plain_ones_that_are_listed(tmp_path):
    _, new, _ = saved(Nested(), tmp_path)
    graph = meta_graph(new)
    nodes = [n for f in graph.graph_def.library.function for n in f.node_def]
    assert not any("PyFunc" in n.op or "Xla" in n.op for n in nodes)
    compiled = [f for f in graph.graph_def.library.function if f.attr["_XlaMustCompile"].b]
    assert not compiled
    listed = {op.name for op in graph.meta_info_def.stripped_op_list.op}
    functions = {f.signature.name for f in graph.graph_def.library.function}
    assert {n.op for n in nodes} <= listed | functions


def test_compiled_groups_if_asked_for(tmp_path):
    tf.saved_model.save(Net(), tmp_path / "model")
    options = OPTIONS.replace(fuse="xla")
    report = nfad.saved_model.rewrite(tmp_path / "model", tmp_path / "new", options)
    assert report.changed
    assert any(f.attr["_XlaMustCompile"].b for f in library(tmp_path / "new").function)
    for got, want in zip(gradients(tmp_path / "new"), gradients(tmp_path / "model"), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("kind", [Net, Nested])
def test_rewriting_again_does_no_harm(kind, tmp_path):
    model, new, first = saved(kind(), tmp_path)
    report = nfad.saved_model.rewrite(new, tmp_path / "again", OPTIONS)
    assert not report.changed
    assert report.kept_bytes_before == report.kept_bytes_after == first.kept_bytes_after
    assert report.reason
    assert meta_graph(tmp_path / "again") == meta_graph(new)
    assert_close(gradients(tmp_path / "again"), gradients(model))


def test_saving_what_was_loaded_keeps_the_gradients(tmp_path):
    model, new, report = saved(Net(), tmp_path)
    tf.saved_model.save(tf.saved_model.load(new), tmp_path / "again")
    assert_close(gradients(tmp_path / "again"), gradients(model))
    again = nfad.saved_model.inspect(tmp_path / "again", OPTIONS)
    assert again.kept_bytes_before == report.kept_bytes_after < report.kept_bytes_before


def test_only_what_a_signature_calls(tmp_path):
    module, other = Net(), Net()
    root = tf.Module()
    root.module, root.other, root.tuned, root.train = module, other, module.tuned, module.train
    signatures = {"first": module.train, "second": other.train}
    tf.saved_model.save(root, tmp_path / "model", signatures=signatures)
    report = nfad.saved_model.rewrite(
        tmp_path / "model", tmp_path / "new", OPTIONS, signatures=["second"]
    )
    everything = nfad.saved_model.inspect(tmp_path / "model", OPTIONS)
    assert (
        0 < sum(f.changed for f in report.functions) < sum(f.changed for f in everything.functions)
    )
    with pytest.raises(nfad.SavedModelError, match=r"unknown signature 'third'.*'first', 'second'"):
        nfad.saved_model.inspect(tmp_path / "model", OPTIONS, signatures=["third"])


def test_what_is_kept_is_told_of_what_runs_together(tmp_path):
    class Traced(Nested):
        """Two traces of a function that calls the same layer as a signature does."""

        @tf.function
        def twice(self, x):
            """Two layers."""
            return self.inner(self.inner(x, self.tuned[0]), self.tuned[1])

    module = Traced()
    for rows in (16, 64):
        module.twice.get_concrete_function(tf.TensorSpec([rows, WIDTH]))
    _, new, report = saved(module, tmp_path, signatures={"score": module.train})
    layer = nfad.explain(
        module.inner, tf.TensorSpec([None, WIDTH]), module.tuned[0], options=OPTIONS
    )
    before, after = layer.kept_bytes_before, layer.kept_bytes_after
    assert before > after > 0
    points = [(e.name, e.kept_bytes_before, e.kept_bytes_after) for e in report.entry_points]
    # TensorFlow lets all of them call the layer's trace for any number of rows.
    assert points[0] == ("score", 3 * before, 3 * after)
    assert points[1:3] == [("twice", 2 * before, 2 * after)] * 2
    assert (report.kept_bytes_before, report.kept_bytes_after) == (3 * before, 3 * after)
    assert report.kept_bytes_before == sum(k.bytes for k in report.kept_before)
    assert report.kept_bytes_after == sum(k.bytes for k in report.kept)
    again = nfad.saved_model.inspect(new, OPTIONS, ["score"])
    assert [e.name for e in again.entry_points] == ["score"]
    assert again.kept_bytes_before == 3 * after


def test_nothing_but_a_saved_model_is_replaced(tmp_path):
    folder = tmp_path / "work"
    tf.saved_model.save(Net(), folder / "model")
    before = digests(tmp_path)

    def refused(source, target):
        with pytest.raises(nfad.SavedModelError):
            nfad.saved_model.rewrite(source, target, OPTIONS, overwrite=True)
        assert digests(tmp_path) == before

    refused(folder / "model", folder)  # would take the input with it
    refused(folder / "model", folder / "model")
    refused(folder / "model", folder / "model" / "inside")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "text").write_text("mine")
    before = digests(tmp_path)
    refused(folder / "model", tmp_path / "notes")
    refused(folder / "model", tmp_path / "notes" / "text")
    refused(folder / "model", tmp_path / "notes" / "text" / "model")


def test_inspecting_gives_the_report_and_changes_nothing(tmp_path):
    model, _, rewritten = saved(Net(), tmp_path)
    before = digests(model)
    done = []
    report = nfad.saved_model.inspect(model, OPTIONS, progress=lambda *now: done.append(now))
    assert digests(model) == before
    assert report.changed
    assert report.kept_bytes_after == rewritten.kept_bytes_after
    count = done[-1][1]
    assert [number for number, _, _ in done] == list(range(count + 1))


def test_a_model_of_tensorflow_1_is_carried_over(tmp_path):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float32, (None, 4), "x")
        tf.compat.v1.saved_model.simple_save(
            session, str(tmp_path / "model"), {"x": x}, {"y": mish(x)}
        )
    report = nfad.saved_model.rewrite(tmp_path / "model", tmp_path / "new", OPTIONS)
    assert not report.changed
    assert "TensorFlow 1" in report.reason
    assert digests(tmp_path / "new", {"fingerprint.pb"}) == digests(
        tmp_path / "model", {"fingerprint.pb"}
    )


def test_ragged_and_string_inputs(tmp_path):
    class Ragged(Net):
        @tf.function(input_signature=[tf.RaggedTensorSpec([None, None], tf.string)])
        def words(self, texts):
            """Lengths of words to vectors."""
            lengths = tf.cast(tf.strings.length(texts.flat_values), tf.float32)[:, None]
            flat = self.body(lengths * tf.ones([1, WIDTH]) / 10)
            return texts.with_flat_values(flat)

    model, new, report = saved(Ragged(), tmp_path)
    assert report.changed
    texts = tf.ragged.constant([["a", "bcd"], [], ["ef"]])
    old, rewritten = tf.saved_model.load(model), tf.saved_model.load(new)
    np.testing.assert_array_equal(old.words(texts).flat_values, rewritten.words(texts).flat_values)


def fine_tune(folder, data):
    """Trains for ten steps in a process without the package."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, finetune.__file__, str(folder), str(data), "10"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "name",
    [
        "module",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("bert", "lstm", "convnexttiny")),
    ],
)
def test_fine_tuning_elsewhere(name, tmp_path):
    if name == "bert":
        pytest.importorskip("keras_hub", reason="pip install nested_fad_tf[bench]")
    data = tmp_path / "data.npz"
    saved_models.save(name, tmp_path / "model", data, small=True)
    command = [sys.executable, "-m", "nested_fad_tf", "rewrite", "--preset", "exact"]
    done = subprocess.run(
        [*command, str(tmp_path / "model"), str(tmp_path / "new")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    plain, rewritten = (fine_tune(tmp_path / m, data) for m in ("model", "new"))
    assert plain["losses"][-1] < plain["losses"][0]
    np.testing.assert_allclose(rewritten["losses"], plain["losses"], rtol=1e-4)
    assert rewritten["squares"] == pytest.approx(plain["squares"], rel=1e-5)
