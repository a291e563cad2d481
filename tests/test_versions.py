"""A TensorFlow that isn't supported: one warning, functions as they were, and the reason."""

from __future__ import annotations

import ast
import pathlib
import re
import subprocess
import sys
import textwrap
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import nested_fad_tf as nfad
from nested_fad_tf.graph import versions

PACKAGE = pathlib.Path(nfad.__file__).parent
# Attributes of this package's own classes that another class of the same file reads.
OWN = {"_add_part", "_new_node", "_options", "_original", "_output"}

X = np.random.default_rng(0).standard_normal((512, 128)).astype(np.float32)


def step(x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        h = x
        for _ in range(4):
            h = tf.nn.gelu(h @ tf.ones([128, 128]) / 128)
        loss = tf.reduce_sum(h * h)
    return tape.gradient(loss, x)


def op_types(concrete):
    return [op.type for op in concrete.graph.get_operations()]


@pytest.fixture(params=["2.17.1", "2.22.0-dev20270101", "3.0.0", "unknown"])
def version(request, monkeypatch):
    monkeypatch.setattr(tf, "__version__", request.param)
    monkeypatch.setattr(versions, "_warned", set())
    return request.param


@pytest.mark.parametrize("name", ["2.18.0", "2.19.1", "2.20.0rc0", "2.21.0-dev20260101"])
def test_supported_versions(name, monkeypatch):
    monkeypatch.setattr(tf, "__version__", name)
    assert versions.unsupported() == ""
    versions.check_supported()


def test_functions_are_left_alone_with_one_warning_and_a_reason(version):
    x = tf.constant(X)
    plain = tf.function(step)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function = nfad.function(step, options=nfad.Options(verify=True))
        result = function(x)
        concrete = function.get_concrete_function(x)
        with nfad.rewriting() as session:
            inside = tf.function(step)
            inside(x)
        rewritten = nfad.rewrite(step, x)
        explained = nfad.explain(step, x)
        found = nfad.budgets(step, x)
        checked = nfad.testing.assert_same_step(step, x)
    (warning,) = (w for w in caught if "nested_fad_tf" in str(w.message))
    assert warning.category is UserWarning
    reason = versions.unsupported()
    assert version in reason and "2.18 to 2.21" in reason
    assert reason in str(warning.message)
    expected = op_types(plain.get_concrete_function(x))
    for graph in (concrete, inside.get_concrete_function(x), rewritten.get_concrete_function(x)):
        assert op_types(graph) == expected
    np.testing.assert_array_equal(result, plain(x))
    reports = [*function.reports, *session.reports, *rewritten.reports, explained, checked]
    assert [report.reason for report in reports] == [reason] * 5
    assert found.obstacle == reason and not found.points
    assert not any(report.changed for report in reports)


def test_the_same_function_is_rewritten_on_a_supported_version():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        rewritten = nfad.rewrite(step, X)
    assert rewritten.reports[-1].changed


def test_keras_models_are_left_alone(version):
    def train(optimized):
        keras.utils.set_random_seed(1)
        layers = [keras.layers.Dense(128, activation="mish") for _ in range(3)]
        model = keras.Sequential([keras.Input([128]), *layers])
        if optimized:
            nfad.keras.optimize(model, nfad.Options(min_bytes=1024))
        model.compile("sgd", "mse")
        model.fit(X, X, batch_size=128, verbose=0)
        return model

    plain = train(False)
    with pytest.warns(UserWarning, match="nested_fad_tf") as caught:
        model = train(True)
    assert sum("nested_fad_tf" in str(w.message) for w in caught) == 1
    assert [report.reason for report in nfad.keras.reports(model)] == [versions.unsupported()]
    for actual, expected in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_saved_models_are_refused(version, tmp_path):
    for call in (nfad.saved_model.inspect, lambda p: nfad.saved_model.rewrite(p, tmp_path / "out")):
        with pytest.raises(nfad.UnsupportedVersionError) as error:
            call(tmp_path / "model")
        assert str(error.value) == versions.unsupported()
    assert not (tmp_path / "out").exists()


def test_nothing_is_compared_and_nothing_written(version, tmp_path):
    ran = []
    with pytest.warns(UserWarning, match="nested_fad_tf") as caught:
        for _ in range(2):
            report = nfad.tensorboard.compare(ran.append, X, log_dir=tmp_path / "logs")
            assert report.reason == versions.unsupported() and not report.changed
    assert sum("nested_fad_tf" in str(w.message) for w in caught) == 1
    assert not ran and not (tmp_path / "logs").exists()


def test_nothing_private_is_needed_where_the_version_is_not_supported():
    code = """
        import warnings
        import tensorflow as tf
        tf.__version__ = "2.30.0"
        from nested_fad_tf.graph import versions
        versions.private = None  # calling it fails
        import nested_fad_tf as nfad
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            nfad.keras, nfad.saved_model, nfad.tensorboard, nfad.testing, nfad.measure
            function = nfad.function(tf.square)
            assert function(3.0).numpy() == 9.0
            with nfad.rewriting():
                assert tf.function(tf.square)(3.0).numpy() == 9.0
        assert "not supported" in function.reports[0].reason
        assert sum("nested_fad_tf" in str(w.message) for w in caught) == 1
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def uses_private_api(tree):
    """Whether code names a module or an attribute that TensorFlow doesn't document."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found = re.match(r"tensorflow\.(python|tsl)\b", node.module or "")
        elif isinstance(node, ast.Attribute):
            own = node.attr in OWN or ast.unparse(node.value) in ("self", "cls")
            found = not own and re.match(r"_[a-zA-Z]", node.attr)
            found = found or ast.unparse(node) == "versions.private"
        else:
            continue
        if found:
            return True
    return False


def test_files_with_private_api_are_few_and_say_where_it_was_checked():
    oldest, newest = (".".join(map(str, v)) for v in (versions.OLDEST, versions.NEWEST))
    found = set()
    for file in PACKAGE.rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        if uses_private_api(tree):
            found.add(file.relative_to(PACKAGE).as_posix())
            about = " ".join((ast.get_docstring(tree) or "").split())
            # Measuring peers is for developers, who have the newest.
            since = newest if file.parent.name == "bench" else f"{oldest} to {newest}"
            assert f"checked on {since}" in about, file
    assert found == {
        "bench/blocks.py",
        "bench/peers.py",
        "emit/function.py",
        "emit/inline.py",
        "emit/primitives.py",
        "graph/callers.py",
        "graph/calls.py",
        "graph/tracing.py",
        "graph/view.py",
        "integrations/saved_model/internals.py",
        "report/allocations.py",
        "report/passes.py",
    }


def test_a_missing_private_module_is_an_error_that_names_it():
    with pytest.raises(nfad.UnsupportedVersionError, match=r"tensorflow\.python\.no\.such"):
        versions.private("no.such")
