"""The flag --import: SavedModels that need ops and types of other packages."""

import os
import pathlib
import subprocess
import sys

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from nested_fad_tf.integrations.saved_model import unknown

_REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
_SCRIPT = pathlib.Path(sys.executable).with_name("nested-fad-tf")

# A module of the user's own: importing it registers a type that the model takes.
_TYPES = """
import tensorflow as tf
from tensorflow.python.framework import type_spec_registry

class Pair(tf.__internal__.CompositeTensor):
    def __init__(self, first, second):
        self.first, self.second = first, second

    @property
    def _type_spec(self):
        return PairSpec(self.first.shape)

@type_spec_registry.register("pair_types.PairSpec")
class PairSpec(tf.TypeSpec):
    value_type = Pair

    def __init__(self, shape):
        self.shape = tf.TensorShape(shape)

    def _serialize(self):
        return (self.shape,)

    @property
    def _component_specs(self):
        return [tf.TensorSpec(self.shape), tf.TensorSpec(self.shape)]

    def _to_components(self, value):
        return [value.first, value.second]

    def _from_components(self, components):
        return Pair(*components)
"""
_SAVE = """
import sys
import tensorflow as tf
import pair_types

class Model(tf.Module):
    @tf.function
    def __call__(self, pair):
        h = pair.first * tf.tanh(tf.nn.softplus(pair.first))
        return h @ pair.second

model = Model()
model.__call__.get_concrete_function(pair_types.PairSpec((64, 64)))
tf.saved_model.save(model, sys.argv[1])
"""


def _run(command, folder):
    """Runs a command in a process that finds the modules of a folder."""
    path = os.pathsep.join([str(_REPOSITORY), str(folder)])
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": path},
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("nested-fad-tf")]
    return done.returncode, done.stdout, lines


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a model of a type that a module beside it defines."""
    folder = tmp_path_factory.mktemp("imports")
    (folder / "pair_types.py").write_text(_TYPES)
    (folder / "broken_types.py").write_text("raise OSError('libpairs.so: undefined symbol')")
    status, _, _ = _run([sys.executable, "-c", _SAVE, folder / "model"], folder)
    assert status == 0
    return folder


@pytest.mark.skipif(not _SCRIPT.exists(), reason="the console script isn't installed")
def test_a_type_of_a_module_is_known_once_it_is_imported(work, tmp_path):
    model, out, logs = work / "model", tmp_path / "out", tmp_path / "logs"
    given = ["--import=json,pair_types", "--preset=low_memory"]
    status, output, errors = _run([_SCRIPT, "rewrite", model, out, *given], work)
    assert (status, errors) == (0, [])
    assert f"the rewritten model is in {out}" in output
    status, output, errors = _run([_SCRIPT, "inspect", out, *given], work)
    assert (status, errors) == (0, [])
    assert "__call__" in output
    log_dir = f"--log_dir={logs}"
    status, _, errors = _run([_SCRIPT, "compare", model, out, log_dir, *given], work)
    assert (status, errors) == (0, [])
    assert sorted(p.name for p in logs.iterdir()) == ["original", "rewritten"]


@pytest.mark.skipif(not _SCRIPT.exists(), reason="the console script isn't installed")
def test_the_flag_is_suggested_where_it_is_missing(work, tmp_path):
    status, output, errors = _run([_SCRIPT, "rewrite", work / "model", tmp_path / "out"], work)
    assert (status, output, len(errors)) == (1, "", 1)
    assert "has not been registered" in errors[0] and "--import=PACKAGE" in errors[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not _SCRIPT.exists(), reason="the console script isn't installed")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no_such_module", "is it installed?"),
        ("pair_types.inner", "No module named 'pair_types.inner'"),
        ("broken_types", "undefined symbol"),
        ("no_such_ops.so", "no_such_ops.so"),
    ],
)
def test_what_cannot_be_imported_is_an_error_of_one_line(work, name, says):
    flag = f"--import=pair_types,{name}"
    status, output, errors = _run([_SCRIPT, "inspect", work / "model", flag], work)
    assert (status, output, len(errors)) == (1, "", 1)
    assert f"--import={name}: " in errors[0] and says in errors[0]


def test_an_unknown_op_is_named(tmp_path):
    module = tf.Module()
    module.call = tf.function(tf.math.lgamma, [tf.TensorSpec([4])])
    tf.saved_model.save(module, tmp_path)
    file = tmp_path / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for function in model.meta_graphs[0].graph_def.library.function:
        for node in function.node_def:
            node.op = "TFText>NoSuchOp" if node.op == "Lgamma" else node.op
    file.write_bytes(model.SerializeToString())
    (tmp_path / "fingerprint.pb").unlink()
    with pytest.raises(Exception, match="not registered") as raised:
        tf.saved_model.load(str(tmp_path))
    line = unknown.explained(str(raised.value))
    assert "'TFText>NoSuchOp' is not registered" in line
    assert "--import=tensorflow_text" in line
    assert len(line) < 200


@pytest.mark.skipif(not _SCRIPT.exists(), reason="the console script isn't installed")
def test_ops_of_tensorflow_text(tmp_path):
    text = pytest.importorskip("tensorflow_text")
    module = tf.Module()
    module.tokenizer = text.WhitespaceTokenizer()
    module.call = tf.function(module.tokenizer.tokenize, [tf.TensorSpec([None], tf.string)])
    tf.saved_model.save(module, tmp_path / "model")
    command = [_SCRIPT, "inspect", tmp_path / "model"]
    status, _, errors = _run(command, tmp_path)
    assert status == 1
    assert "--import=tensorflow_text" in errors[0]
    libraries = pathlib.Path(text.__file__).parent.rglob("_whitespace_tokenizer_v2.so")
    for name in ("tensorflow_text", *libraries):
        status, output, _ = _run([*command, f"--import={name}"], tmp_path)
        assert status == 0, name
        assert "functions" in output
