"""What the commands on SavedModels share: flags, and what they show while they work and after."""

from __future__ import annotations

import contextlib
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from absl import flags
from rich import box, console, markup, progress, table

from nested_fad_tf.options import Options, preset_names
from nested_fad_tf.report import files, tables

if TYPE_CHECKING:
    from nested_fad_tf.report.summary import Report

_WIDTH = 100
_NAME_WIDTH = 30
# Without a terminal, progress is for logs of long runs: short ones need none.
_SECONDS_BETWEEN_LINES = 10.0


def define_preset(values: flags.FlagValues) -> None:
    """Adds --preset.

    Args:
        values: The command's flags.
    """
    flags.DEFINE_string(
        "preset",
        "exact",
        f"How to rewrite: {', '.join(preset_names())}, or a TOML file with an [options] table.",
        flag_values=values,
    )


def define_signature(values: flags.FlagValues) -> None:
    """Adds --signature.

    Args:
        values: The command's flags.
    """
    flags.DEFINE_multi_string(
        "signature",
        None,
        "Only what these signatures call, commas between them. By default everything",
        flag_values=values,
    )


def define_json(values: flags.FlagValues) -> None:
    """Adds --json.

    Args:
        values: The command's flags.
    """
    flags.DEFINE_string("json", None, "File to write the report to.", flag_values=values)


def define_html_and_plot(values: flags.FlagValues) -> None:
    """Adds --html and --plot.

    Args:
        values: The command's flags.
    """
    flags.DEFINE_string(
        "html", None, "File to write the report to as a page for the browser.", flag_values=values
    )
    flags.DEFINE_string(
        "plot",
        None,
        "Folder to draw to, as SVG and PNG: memory over a step, if a function has one, and what is"
        " kept by layer.",
        flag_values=values,
    )


def signatures(given: list[str] | None) -> list[str] | None:
    """Returns the names in --signature.

    Args:
        given: The flag's values, each of them a name or several with commas between.
    """
    return None if given is None else [name for value in given for name in value.split(",")]


@contextlib.contextmanager
def progress_shown(
    status: console.Console, doing: str
) -> Iterator[Callable[[int, int, str], None]]:
    """Shows how far the work is: a bar in a terminal, else a line now and then.

    Args:
        status: Where to.
        doing: What is done to each function, as in "rewriting".

    Yields:
        What to call with the functions done, how many there are, and the name of the next one.
    """
    if not status.is_terminal:
        yield _Lines(status, doing)
        return
    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
    )
    with progress.Progress(*columns, console=status, transient=True) as bars:
        task = bars.add_task("reading", total=None)

        def show(done: int, count: int, name: str) -> None:
            description = f"{doing} {_end(name)}" if name else "done"
            bars.update(task, completed=done, total=count, description=description)

        yield show


class _Lines:
    """Progress as lines of text."""

    def __init__(self, status: console.Console, doing: str) -> None:
        self._status = status
        self._doing = doing
        self._last = time.monotonic()

    def __call__(self, done: int, count: int, name: str) -> None:
        now = time.monotonic()
        if name and now - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = now
            self._status.out(f"{self._doing} {name}: {done} of {count} functions done")


def show(report: Report, options: Options, *, applied: bool, detailed: bool = False) -> None:
    """Prints a report on a SavedModel, at most 100 columns wide.

    Args:
        report: The report.
        options: What was allowed.
        applied: Whether its functions were rewritten, rather than looked at.
        detailed: Whether to list everything.
    """
    out = console.Console()
    if not out.is_terminal or out.width > _WIDTH:
        out = console.Console(width=_WIDTH)
    out.print(_rich(tables.functions(report, applied=applied, detailed=detailed)))
    kept = tables.kept(report, applied=applied, detailed=detailed)
    for found in (kept, tables.entry_points(report, detailed=detailed)):
        if found.rows:
            out.print(_rich(found))
    for line in tables.totals(report, options.min_bytes, applied=applied):
        out.print(line, markup=False, highlight=False)


def write_json(path: pathlib.Path | None, report: Report) -> None:
    """Writes a report where --json asks for it, and says so.

    Args:
        path: The file; `None` if it wasn't asked for.
        report: The report.
    """
    if path is not None:
        files.write_json(path, report.to_dict())
        print(f"the report is in {path}")


def write_html(path: pathlib.Path | None, report: Report) -> None:
    """Writes a report as a page where --html asks for it, and says so.

    Args:
        path: The file; `None` if it wasn't asked for.
        report: A report on a SavedModel that was looked at.
    """
    if path is not None:
        report.to_html(path, applied=False)
        print(f"the page is {path}")


def write_plots(folder: pathlib.Path | None, report: Report) -> None:
    """Draws a report where --plot asks for it, and says what was drawn.

    Args:
        folder: Where to; `None` if it wasn't asked for.
        report: The report.
    """
    if folder is not None:
        drawn = report.plot(folder)
        print("\n".join(map(str, drawn)) or "nothing is kept, so nothing was drawn")


def _rich(content: tables.Table) -> table.Table:
    rows = table.Table(box=box.SIMPLE_HEAD, title_justify="left", title=content.title)
    for column in content.columns:
        if column.kind == "text":
            rows.add_column(column.title, overflow="fold")
        else:
            justify: console.JustifyMethod = "right" if column.kind == "number" else "left"
            rows.add_column(column.title, justify=justify, no_wrap=True)
    for row in content.rows:
        cells = zip(content.columns, row, strict=True)
        rows.add_row(*(markup.escape(_end(t) if c.kind == "name" else t) for c, t in cells))
    return rows


def _end(name: str) -> str:
    """Returns the end of a long name: the scopes at its beginning tell least."""
    return name if len(name) <= _NAME_WIDTH else f"...{name[3 - _NAME_WIDTH :]}"
