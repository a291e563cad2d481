"""Runs Keras' own tests plain and rewritten, and compares how they ended."""

from __future__ import annotations

import collections
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from nested_fad_tf.bench import keras_plugin
from nested_fad_tf.errors import FAILED
from nested_fad_tf.options import Options

_ROOT = pathlib.Path(__file__).resolve().parents[2]
# Exit codes of pytest after which there are outcomes: all passed, some failed, files could not be
# imported, no tests found.
_ENDED = (0, 1, 2, 5)
# What Keras' tests use of the conftest.py at the top of its repository, which no distribution has.
_CONFTEST = """
import pytest
from keras.src.backend import backend

def skip_if_backend(given_backend, reason):
    return pytest.mark.skipif(backend() == given_backend, reason=reason)

def pytest_configure(config):
    config.addinivalue_line("markers", "requires_trainable_backend: not for NumPy")
    config.addinivalue_line("markers", "multi_device: needs several devices")

def pytest_collection_modifyitems(items):
    for item in items:
        if "multi_device" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs several devices"))
"""


def distribution(folder: pathlib.Path) -> None:
    """Installs the source distribution of the installed Keras' version into a folder.

    Args:
        folder: Where to; `keras` will lie in it.
    """
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-binary=keras"]
    requirement = f"keras=={importlib.metadata.version('keras')}"
    subprocess.run([*pip, f"--target={folder}", requirement], check=True)
    (folder / "conftest.py").write_text(_CONFTEST, encoding="utf-8")


def has_tests(tree: pathlib.Path) -> bool:
    """Whether there are tests below a folder's `keras`."""
    return any(tree.glob("keras/src/**/*_test.py"))


def run(
    tree: pathlib.Path,
    tests: Sequence[str],
    options: Options | None,
    jobs: int = 2,
    select: str | None = None,
) -> dict[str, Any]:
    """Runs tests once, in processes of their own.

    Args:
        tree: The folder that `keras` lies in. It is imported from there: tests and library belong
            together.
        tests: Paths or ids of tests, from that folder.
        options: What rewriting may do; None for no rewriting.
        jobs: How many processes.
        select: For pytest's -k.

    Returns:
        What keras_plugin writes, and seconds.

    Raises:
        RuntimeError: If pytest ended without outcomes.
    """
    path = [str(tree), str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, "PYTHONPATH": os.pathsep.join(path)}
    environment["KERAS_BACKEND"] = "tensorflow"
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "outcomes.json")
        command = [sys.executable, "-m", "pytest", "-p", keras_plugin.__name__, f"--rootdir={tree}"]
        command += [f"--outcomes={file}", "-p", "no:cacheprovider", "-o", "addopts="]
        command += ["-q", "--tb=no", "--no-summary", "--continue-on-collection-errors"]
        # A file's tests run in one process and in their order.
        command += [f"--numprocesses={jobs}", "--dist=loadfile", *tests]
        command += ["-k", select] if select else []
        command += [f"--rewriting={json.dumps(options.to_dict())}"] if options else []
        start = time.perf_counter()
        done = subprocess.run(command, cwd=tree, env=environment, stderr=subprocess.PIPE, text=True)
        if done.returncode not in _ENDED:
            raise RuntimeError(f"{done.stderr}pytest ended with {done.returncode}")
        return {**json.loads(file.read_text()), "seconds": time.perf_counter() - start}


def compare(name: str, plain: dict[str, Any], rewritten: dict[str, Any]) -> dict[str, Any]:
    """Compares the outcomes of a group, test by test.

    Args:
        name: The group.
        plain: What `run` returned without rewriting.
        rewritten: What it returned with it.

    Returns:
        Counts of outcomes (plain) and of functions (rewritten), tests in which the pass failed,
        files that could not be imported, and differences.
    """
    before, after = plain["outcomes"], rewritten["outcomes"]
    both = {test: (before.get(test), after.get(test)) for test in sorted({*before, *after})}
    reports = rewritten["reports"]
    why: collections.Counter[str] = collections.Counter()
    for reasons in reports.values():
        why.update(reasons)
    failed = {t: [r for r in reports[t] if r.startswith(FAILED)] for t in reports}
    not_loaded = {t: o for t, o in before.items() if o.startswith(keras_plugin.UNLOADED)}
    return {
        "group": name,
        "tests": len(before) - len(not_loaded),
        **collections.Counter(outcome.split()[0] for outcome in before.values()),
        "functions": why.total(),
        "changed": why[keras_plugin.CHANGED],
        "tests_changed": sum(keras_plugin.CHANGED in reasons for reasons in reports.values()),
        "reasons": dict(why.most_common()),
        "errors": {test: reasons for test, reasons in failed.items() if reasons},
        "not_loaded": not_loaded,
        "differences": {test: pair for test, pair in both.items() if pair[0] != pair[1]},
        "seconds": [plain["seconds"], rewritten["seconds"]],
    }


def versions() -> dict[str, Any]:
    """What the results depend on."""
    return {
        **{name: importlib.metadata.version(name) for name in ("tensorflow", "keras")},
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
    }
