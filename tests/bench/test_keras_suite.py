"""The machinery of scripts/keras_suite, on tests like Keras'."""

from __future__ import annotations

import pytest

import nested_fad_tf as nfad
from nested_fad_tf.bench import keras_plugin, keras_suite

OPTIONS = nfad.Options(min_bytes=16, tradeoff=0.0, fuse="ops")
STEP = """
import unittest
import tensorflow as tf

@tf.function
def step(w):
    with tf.GradientTape() as tape:
        tape.watch(w)
        h = w
        for _ in range(3):
            h = tf.matmul(tf.nn.gelu(h), w)
        loss = tf.reduce_sum(h)
    return tape.gradient(loss, w)

class StepTest(unittest.TestCase):
    def setUp(self):
        self.graph = step.get_concrete_function(tf.TensorSpec([16, 16])).graph

    def test_gradient(self):
        step(tf.ones([16, 16]))

    def test_is_as_traced(self):  # what no test of Keras' asks
        self.assertFalse(any("nested_fad" in op.name for op in self.graph.get_operations()))

    def test_failing(self):
        raise OSError("for both")

    @unittest.skip("not here")
    def test_skipped(self):
        pass
"""
FOLDER = "keras/src/trainers"


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    tree = tmp_path_factory.mktemp("tree")
    assert not keras_suite.has_tests(tree)
    (tree / FOLDER).mkdir(parents=True)
    (tree / FOLDER / "step_test.py").write_text(STEP)
    (tree / FOLDER / "other_test.py").write_text("import no_such_module\n")
    assert keras_suite.has_tests(tree)
    runs = [keras_suite.run(tree, [FOLDER], options, jobs=1) for options in (None, OPTIONS)]
    return keras_suite.compare("trainers", *runs)


def test_outcomes(comparison):
    counts = {name: comparison[name] for name in ("tests", "passed", "failed", "skipped")}
    assert counts == {"tests": 4, "passed": 2, "failed": 1, "skipped": 1}


def test_what_differs_is_found(comparison):
    (test,) = comparison["differences"]
    assert test.endswith("StepTest::test_is_as_traced")
    assert comparison["differences"][test] == ("passed", "failed AssertionError")


def test_reports_are_counted(comparison):
    assert comparison["changed"] == 1
    assert comparison["reasons"][keras_plugin.CHANGED] == 1
    assert not comparison["errors"]


def test_files_that_cannot_be_imported_are_listed(comparison):
    ((file, why),) = comparison["not_loaded"].items()
    assert file.endswith("other_test.py") and "no_such_module" in why


def test_errors_of_the_pass_are_found():
    outcomes = {"a": "passed", "b": "passed"}
    plain = {"outcomes": outcomes, "reports": {}, "seconds": 1.0}
    reason = "the pass failed (ValueError: no)"
    rewritten = {**plain, "reports": {"a": {"changed": 1}, "b": {reason: 1, "changed": 2}}}
    found = keras_suite.compare("group", plain, rewritten)
    assert found["errors"] == {"b": [reason]}
    assert (found["functions"], found["changed"], found["tests_changed"]) == (4, 3, 2)


def test_no_outcomes_is_an_error(tmp_path):
    (tmp_path / FOLDER).mkdir(parents=True)
    (tmp_path / "conftest.py").write_text("import no_such_module\n")
    with pytest.raises(RuntimeError, match=r"no_such_module[\s\S]*pytest ended with 4"):
        keras_suite.run(tmp_path, [FOLDER], None, jobs=1)
