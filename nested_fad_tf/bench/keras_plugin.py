"""A pytest plugin: runs tests inside `nfad.rewriting()`, and writes down how each one ended.

    pytest -p nested_fad_tf.bench.keras_plugin --outcomes=FILE [--rewriting=OPTIONS]

OPTIONS are those of `nfad.Options`, as JSON; without them the tests run as they are. FILE has for
each test how it ended, and for each reason that a report gives how many functions it was given for.
Works with pytest-xdist. Used by scripts/keras_suite on Keras' own tests.
"""

from __future__ import annotations

import collections
import json
import pathlib
from collections.abc import Generator
from typing import Any

import pytest

import nested_fad_tf as nfad
from nested_fad_tf.report import files

CHANGED = "changed"
UNLOADED = "unloaded"
_PROPERTY = "nested_fad_tf"
_WORST = ("failed", "skipped", "passed")  # of the outcomes of a test's phases, the first counts


class Recorder:
    """Collects outcomes and reports in the process that writes the file.

    Attributes:
        outcomes: How a test ended, by its id: passed, skipped, failed with an exception of this
            type; of a file that could not be imported, why.
        reports: How often a test's functions were given each reason, by its id.
    """

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}
        self.reports: dict[str, dict[str, int]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Notes a phase of a test, whichever process ran it."""
        outcomes = (self.outcomes.get(report.nodeid, "passed"), _outcome(report))
        self.outcomes[report.nodeid] = min(outcomes, key=lambda o: _WORST.index(o.split()[0]))
        for name, value in report.user_properties:
            if name == _PROPERTY:
                self.reports[report.nodeid] = value

    def pytest_collectreport(self, report: Any) -> None:
        """Notes a file that could not be imported, with the last line of the error."""
        if report.failed:
            self.outcomes[report.nodeid] = f"{UNLOADED} {str(report.longrepr).splitlines()[-1]}"

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Writes the file."""
        path = pathlib.Path(session.config.getoption("outcomes"))
        files.write_json(path, {"outcomes": self.outcomes, "reports": self.reports})


def _outcome(report: Any) -> str:
    """How a phase ended; of an exception the type, as its message may hold addresses and paths."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if report.outcome == "failed" and crash is not None:
        lines = crash.message.splitlines() or [""]
        return f"failed {lines[0].split(':')[0]}"
    return report.outcome


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the plugin's flags."""
    parser.addoption("--outcomes", required=True, help="JSON file to write")
    parser.addoption("--rewriting", help="options for nested_fad_tf.rewriting, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    """Registers the recorder."""
    if not hasattr(config, "workerinput"):  # not one of pytest-xdist's workers
        config.pluginmanager.register(Recorder())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Runs a test, its `setUp` included, inside `nfad.rewriting` if that was asked for."""
    options = item.config.getoption("rewriting")
    if options is None:
        return (yield)
    with nfad.rewriting(nfad.Options.from_dict(json.loads(options))) as session:
        try:
            return (yield)
        finally:
            why = (CHANGED if report.changed else report.reason for report in session.reports)
            item.user_properties.append((_PROPERTY, dict(collections.Counter(why))))
