"""Where programs enter a SavedModel, and which functions run when they do.

A function is reported on once, however often it is called, and there is one for each trace of the
same Python function. What a call keeps is the sum over the functions that it runs, each as often as
it is called.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from nested_fad_tf.integrations.saved_model.library import Library
from nested_fad_tf.report.building import combined
from nested_fad_tf.report.summary import Report

Calls = Mapping[str, Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Found:
    """What was found out about the functions of a SavedModel.

    Attributes:
        reports: The reports by the names that the file has for the functions.
        entries: What `entry_points` found.
    """

    reports: Mapping[str, Report]
    entries: Sequence[tuple[str, Sequence[Report]]] = ()

    def combined(self, name: str, strategy: str, seconds: float) -> Report:
        """Makes one report of all.

        Args:
            name: The SavedModel.
            strategy: The strategy asked for.
            seconds: Time spent.

        Returns:
            The report.
        """
        reports = list(self.reports.values())
        return combined(name, reports, self.entries, strategy, seconds)


def calls_of(library: Library, names: Iterable[str]) -> Calls:
    """Finds out which functions call which; a rewrite adds others.

    Args:
        library: The functions of a SavedModel.
        names: Those to look at.

    Returns:
        By name the functions that each calls, as often as it does.
    """
    return {name: library.called(name) for name in names}


def entry_points(
    calls: Calls, reports: Mapping[str, Report], signatures: Mapping[str, str]
) -> list[tuple[str, list[Report]]]:
    """Finds the functions that no other calls, and what each of them runs.

    Args:
        calls: What `calls_of` found.
        reports: The reports on functions; those that a training step calls have none.
        signatures: The functions of signatures, by signature.

    Returns:
        For each the signature, or the function's name where it has none, and the reports on all
        functions that run, as often as they are called.
    """
    called = {inner for inners in calls.values() for inner in inners}
    titles = {function: signature for signature, function in signatures.items()}
    found = []
    for name, report in reports.items():
        if name not in called or name in titles:
            title = titles.get(name, report.function_name)
            found.append((title, _run(name, calls, reports)))
    return found


def _run(name: str, calls: Calls, reports: Mapping[str, Report]) -> list[Report]:
    report = reports.get(name)
    if report is None:
        return []
    # The plan of a training step counts what it calls.
    inner = () if report.gradient_seeds else calls[name]
    return [report, *(r for other in inner for r in _run(other, calls, reports))]
