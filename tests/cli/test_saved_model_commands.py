import hashlib
import io
import json
import os
import pathlib
import subprocess
import sys

import pytest
import tensorflow as tf
from rich import console
from tensorflow.core.protobuf import saved_model_pb2

from nested_fad_tf.cli import main, saved_models

_REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
# Layers this narrow are left alone by other presets.
_PRESET = "--preset=low_memory"

# Runs command lines in one process and prints what became of each: a TensorFlow for each of them
# would take long.
_RUN_SEVERAL = """
import contextlib, io, json, sys
from nested_fad_tf.cli import main

results = []
for line in json.loads(sys.argv[1]):
    with (
        contextlib.redirect_stdout(io.StringIO()) as output,
        contextlib.redirect_stderr(io.StringIO()) as errors,
    ):
        status = main.main(["nested-fad-tf", *line])
    results.append([status, output.getvalue(), errors.getvalue()])
print(json.dumps(results))
"""

_COMPARE_LOADED = """
import sys
import numpy as np
import tensorflow as tf

def results(folder):
    model = tf.saved_model.load(folder)
    x = tf.random.stateless_normal((5, 64), (1, 2))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = model(x)
    served = model.signatures["serving_default"](x=x)["output_0"]
    found = model.signatures["find"](s=tf.constant(["a", "b", "c"]))["n"]
    # Differentiated, oneDNN fuses other ops: results may differ by rounding.
    return [model(x), served, found], [y, *tape.gradient(y, [x, *model.weights])]

(plain, plain_gradients), (outputs, gradients) = map(results, sys.argv[1:])
for a, b in zip(plain, outputs, strict=True):
    np.testing.assert_array_equal(a, b)
for a, b in zip(plain_gradients, gradients, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
assert len(gradients) == 10
assert "nested_fad_tf" not in sys.modules
"""


class _Mish(tf.Module):
    def __init__(self):
        super().__init__()
        self.weights = [
            tf.Variable(tf.random.stateless_normal((64, 64), (0, i)) / 8) for i in range(8)
        ]
        known = tf.lookup.KeyValueTensorInitializer(["a", "b"], [1, 2])
        self.table = tf.lookup.StaticHashTable(known, -1)

    @tf.function(input_signature=[tf.TensorSpec((None, 64))])
    def __call__(self, x):
        for weight in self.weights:
            x = x @ weight
            x = x * tf.tanh(tf.nn.softplus(x))
        return x

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
    def find(self, s):
        return {"n": self.table.lookup(s)}


def _python(*arguments):
    path = os.pathsep.join([str(_REPOSITORY), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": path},
    )


def _run(*arguments):
    """Runs the command line in a process of its own, as a user would."""
    return _python("-m", "nested_fad_tf", *map(str, arguments))


def _run_several(*lines):
    """Runs several command lines; gives exit status, stdout and stderr of each."""
    done = _python("-c", _RUN_SEVERAL, json.dumps([list(map(str, line)) for line in lines]))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _messages(text):
    """Returns the program's own lines on stderr."""
    return [line for line in text.splitlines() if line.startswith("nested-fad-tf")]


def _contents(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A SavedModel of eight layers, with a signature for them and one that looks strings up."""
    folder = tmp_path_factory.mktemp("original") / "model"
    module = _Mish()
    signatures = {"serving_default": module.__call__, "find": module.find}
    tf.saved_model.save(module, str(folder), signatures)
    return folder


@pytest.fixture(scope="module")
def rewriting(model, tmp_path_factory):
    """The folder of a rewritten model, and how the process that wrote it ended."""
    folder = tmp_path_factory.mktemp("rewritten")
    before = _contents(model)
    report = f"--json={folder / 'report.json'}"
    done = _run("rewrite", model, folder / "small", _PRESET, report)
    assert _contents(model) == before
    return folder / "small", done


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("inspect", ["inspect SAVED_MODEL [", "--signature", "--preset", "--json", "--detailed"]),
        ("inspect", ["--html", "--plot", "SVG and PNG"]),
        ("rewrite", ["rewrite SAVED_MODEL OUT [", "--fuse", "--overwrite", "--signature"]),
        ("rewrite", ["isn't installed", "TensorFlow Serving", "XLA", "never changed"]),
        ("rewrite", ["fine-tuning", "Inference is unchanged"]),
        ("compare", ["compare SAVED_MODEL [REWRITTEN] [", "--log_dir", "--preset", "--signature"]),
        *((name, ["--import", "tensorflow_text"]) for name in ("inspect", "rewrite", "compare")),
    ],
)
def test_help(capsys, command, words):
    assert main.main(["nested-fad-tf", command, "--help"]) == 0
    output = capsys.readouterr().out
    text = " ".join(output.split())
    for word in ["arguments:", "examples:", *words]:
        assert word in text
    assert max(map(len, output.splitlines())) <= 100


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "gs://bucket/model"],
        ["rewrite", "gs://bucket/model", "out"],
        ["rewrite", "model", "s3://bucket/out"],
        ["compare", "model", "gs://bucket/other", "--log_dir=logs"],
        ["compare", "model", "--log_dir=gs://bucket/logs"],
    ],
)
def test_remote_folders_are_refused(capsys, arguments):
    assert main.main(["nested-fad-tf", *arguments]) == 1
    output = capsys.readouterr()
    assert len(output.err.splitlines()) == 1
    assert "is remote" in output.err


def test_inspect_shows_what_is_kept_and_why(model, tmp_path):
    path = tmp_path / "report.json"
    done, detailed, one = _run_several(
        ["inspect", model, _PRESET, f"--json={path}"],
        ["inspect", model, _PRESET, "--detailed"],
        ["inspect", "--signature=find", model],
    )
    for status, output, errors in (done, detailed, one):
        assert (status, errors) == (0, "")
        # How long the names of folders are is not this program's doing.
        shown = output.replace(str(tmp_path), "").replace(str(model.parent), "")
        assert max(map(len, shown.splitlines())) <= 100
    for text in ("__call__", "0.19 -> 0.07", "would be rewritten", "that keep nothing"):
        assert text in done[1]
    for text in ("float32[?,64]", "read by the gradient", "serving_default", "counted as 32"):
        assert text in done[1]
    assert "kept for the backward pass: 0.19 -> 0.07 MiB (2.67x less); 1 of 7" in done[1]
    for text in ("signature_wrapper", "find", "_initializer", "matmul_6:0"):
        assert text in detailed[1]
    assert "0 of 2 functions would be rewritten" in one[1]

    report = json.loads(path.read_text())
    assert report["changed"] and report["function_name"] == str(model)
    assert len(report["functions"]) == 7
    assert (report["kept_bytes_before"], report["kept_bytes_after"]) == (196608, 73728)
    assert _names(tmp_path) == ["report.json"]


def test_inspect_writes_a_page_and_figures(model, tmp_path):
    page, figures = tmp_path / "report.html", tmp_path / "new" / "figures"
    done, nothing = _run_several(
        ["inspect", model, _PRESET, f"--html={page}", f"--plot={figures}"],
        ["inspect", model, "--signature=find", f"--plot={tmp_path / 'none'}"],
    )
    assert done[0] == nothing[0] == 0
    assert f"the page is {page}" in done[1]
    text = page.read_text(encoding="utf-8")
    assert "can be rewritten" in text and "mul_6:0" in text
    # No function holds a step, so there is nothing to draw over time.
    assert _names(figures) == ["kept.png", "kept.svg"]
    assert "nothing was drawn" in nothing[1]
    assert _names(tmp_path) == ["new", "report.html"]


def test_rewrite_writes_a_model_that_needs_less(rewriting):
    folder, done = rewriting
    assert done.returncode == 0, done.stderr
    assert not _messages(done.stderr)
    assert "rewritten" in done.stdout and "would be" not in done.stdout
    assert "0.19 -> 0.07 MiB" in done.stdout
    assert done.stdout.splitlines()[-1] == f"the rewritten model is in {folder}"
    report = json.loads((folder.parent / "report.json").read_text())
    assert [f["function_name"] for f in report["functions"] if f["changed"]] == ["__call__"]
    # The folder is moved into place: nothing else is left beside it.
    assert _names(folder.parent) == ["report.json", "small"]


def test_the_result_is_the_same_model_without_this_package(model, rewriting):
    done = _python("-c", _COMPARE_LOADED, str(model), str(rewriting[0]))
    assert done.returncode == 0, done.stderr


def test_rewriting_again_and_replacing(model, rewriting, tmp_path):
    small, _ = rewriting
    again, other = tmp_path / "again", tmp_path / "other"
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("not a model")
    twice, refused, one, replaced, notes, parent = _run_several(
        ["rewrite", small, again, _PRESET],
        ["rewrite", model, again, _PRESET],
        ["rewrite", model, other, _PRESET, "--signature=find,serving_default"],
        ["rewrite", model, other, _PRESET, "--overwrite", "--signature=find"],
        ["rewrite", model, tmp_path / "notes", "--overwrite"],
        ["rewrite", again, tmp_path, "--overwrite"],
    )
    assert twice[0] == 0
    assert f"nothing was rewritten: {again} is a copy" in twice[1]
    # Replaced in between, it would keep more.
    assert _functions(again) == _functions(small)

    assert refused[0] == 1
    assert len(refused[2].splitlines()) == 1
    assert "exists already (--overwrite replaces it)" in refused[2]

    assert one[0] == 0 and "1 of 4 functions rewritten" in one[1]
    assert replaced[0] == 0 and "0 of 2 functions rewritten" in replaced[1]
    assert _functions(other) == _functions(model)

    assert notes[0] == 1 and "is no SavedModel" in notes[2]
    assert parent[0] == 1 and "lies inside the other" in parent[2]
    assert _names(tmp_path) == ["again", "notes", "other"]
    assert _names(tmp_path / "notes") == ["notes.txt"]


def _functions(folder):
    """Its functions as they are stored, by name."""
    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    library = saved.meta_graphs[0].graph_def.library
    return {f.signature.name: f.SerializeToString(deterministic=True) for f in library.function}


def test_errors_are_one_line_and_change_nothing(model, tmp_path):
    file, empty, out = tmp_path / "file", tmp_path / "empty", tmp_path / "out"
    file.write_text("a file")
    empty.mkdir()
    cases = {
        "has: 'find', 'serving_default'": ["inspect", model, "--signature=serve"],
        "unknown signature 'serve'": ["rewrite", model, out, "--signature=serve"],
        "unknown signature 'a'": ["compare", model, f"--log_dir={out}", "--signature=find,a"],
        "unknown signature 'b'": ["compare", model, model, f"--log_dir={out}", "--signature=b"],
        "signature 'c' to measure": ["compare", model, f"--log_dir={out}", "--measure=c"],
        "missing does not exist": ["rewrite", tmp_path / "missing", out],
        "is a file, not the folder": ["inspect", file],
        "save the model with model.export": ["compare", empty, f"--log_dir={out}"],
        "cannot write to": ["rewrite", model, file / "out"],
        "cannot read": ["inspect", model, f"--preset={tmp_path / 'missing.toml'}"],
        "is not a SavedModel": ["compare", model, empty, f"--log_dir={out}"],
    }
    for expected, result in zip(cases, _run_several(*cases.values()), strict=True):
        status, output, errors = result
        assert status == 1
        assert not output
        assert len(errors.splitlines()) == 1
        assert expected in errors
    assert _names(tmp_path) == ["empty", "file"]


def test_an_error_ends_the_process_with_one_line_and_status_1(model, rewriting):
    small, _ = rewriting
    before = _contents(small)
    done = _run("rewrite", model, small)
    assert done.returncode == 1
    assert len(_messages(done.stderr)) == 1
    assert "Traceback" not in done.stderr
    assert _contents(small) == before
    assert _names(small.parent) == ["report.json", "small"]


def test_compare_writes_both_runs(model, rewriting, tmp_path):
    made, given = tmp_path / "made" / "logs", tmp_path / "given"
    first, second = _run_several(
        ["compare", model, "--log_dir", made, _PRESET],
        ["compare", model, rewriting[0], "--log_dir", given, _PRESET],
    )
    for log_dir, (status, output, errors) in ((made, first), (given, second)):
        assert (status, errors) == (0, "")
        assert f"tensorboard --logdir {log_dir}" in output
        assert _names(log_dir) == ["original", "rewritten"]
        original, rewritten = _events(log_dir / "original"), _events(log_dir / "rewritten")
        assert not any("/nested_fad/" in name for name in original["graph"])
        assert any("/nested_fad/" in name for name in rewritten["graph"])
        assert {n.split("/")[0] for n in original["graph"]} == set(_functions(model))
        for run in (original, rewritten):
            kept = {n for n, node in run["graph"].items() if node.op == "KeptForBackward"}
            assert all("/kept/" in name for name in kept)
            assert len(kept) == run["kept_bytes"] // (32 * 64 * 4)
            # The layers share a scope, so they are one bar.
            assert run["kept_by_layer"].tolist() == [[0, 1, run["kept_bytes"] / 2**20]]
            assert "Kept by 1 layers" in run["report"]
            reads = {i.lstrip("^").split(":")[0] for n in run["graph"].values() for i in n.input}
            assert reads <= set(run["graph"])
            assert "| \\_\\_call\\_\\_ |" in run["report"]
        assert original["kept_bytes"] == 196608
        assert rewritten["kept_bytes"] == 73728
        # The calls that carry gradients fuse nothing.
        assert not any("fused" in name for name in rewritten["graph"])
    assert rewritten["graph"].keys() == _events(made / "rewritten")["graph"].keys()


def test_compare_shows_what_a_signature_calls(model, rewriting, tmp_path):
    made, given = tmp_path / "made", tmp_path / "given"
    signature = "--signature=serving_default"
    measured = tmp_path / "measured"
    timed, found, both = _run_several(
        ["compare", model, "--log_dir", measured, _PRESET, "--measure=serving_default"],
        ["compare", model, "--log_dir", made, _PRESET, "--signature=find"],
        ["compare", model, rewriting[0], "--log_dir", given, _PRESET, signature],
    )
    assert found[0] == both[0] == timed[0] == 0, found[2] + both[2] + timed[2]
    assert "s a step" in timed[1]
    assert _events(measured / "original")["step_seconds"] > 0
    assert _events(measured / "rewritten")["step_seconds"] > 0
    for run, kept, count in (
        (made / "original", 0, 2),
        (made / "rewritten", 0, 2),
        (given / "original", 196608, 2),
        (given / "rewritten", 73728, 4),  # and what carries gradients, of chains and of products
    ):
        events = _events(run)
        functions = {name.split("/")[0] for name in events["graph"]}
        assert len(functions) == count
        assert all(("find" in name) == (kept == 0) for name in functions)
        assert events["kept_bytes"] == kept


def _events(run):
    """Nodes by name, and values by tag, of a run of TensorBoard."""
    (file,) = run.iterdir()
    found = {}
    for event in tf.compat.v1.train.summary_iterator(str(file)):
        if event.graph_def:
            graph = tf.compat.v1.GraphDef.FromString(event.graph_def)
            found["graph"] = {node.name: node for node in graph.node}
        for value in event.summary.value:
            array = tf.make_ndarray(value.tensor)
            if array.size == 1:
                found[value.tag] = array.item().decode() if array.dtype == object else array.item()
            elif array.dtype != object:
                found[value.tag] = array
    return found


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_a_bar_in_a_terminal_and_lines_elsewhere(monkeypatch, terminal):
    monkeypatch.setattr(saved_models, "_SECONDS_BETWEEN_LINES", 0.0)
    stream = io.StringIO()
    status = console.Console(file=stream, force_terminal=terminal, width=80)
    with saved_models.progress_shown(status, "rewriting") as progress:
        progress(3, 8, "[b]name")
        progress(8, 8, "")
    if terminal:
        assert "8/8" in stream.getvalue()
    else:
        assert stream.getvalue() == "rewriting [b]name: 3 of 8 functions done\n"
