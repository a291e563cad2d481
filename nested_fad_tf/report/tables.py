"""The report on a SavedModel as tables of text, which the terminal and TensorBoard show."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from nested_fad_tf.report.summary import Kept, Report

_MIB = 2**20
_FUNCTIONS, _TENSORS = 15, 10
_REASON_WIDTH = 160


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: What stands above it.
        kind: What is in it. Of a "name" the end tells most; a "number" is aligned right.
    """

    title: str
    kind: Literal["name", "number", "text"]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: What it shows.
        columns: Its columns.
        rows: A text for each column.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


def functions(report: Report, *, applied: bool, detailed: bool = False) -> Table:
    """What is kept of each function, and what becomes of it.

    Args:
        report: A report on a SavedModel.
        applied: Whether its functions were rewritten, rather than looked at.
        detailed: Whether each has a row of its own, and reasons their full length; else those that
            keep least share one.

    Returns:
        The table, what keeps most first.
    """
    ordered = sorted(report.functions, key=lambda f: -f.kept_bytes_before)
    listed = [f for f in ordered if f.kept_bytes_before or detailed]
    listed = listed if detailed else listed[:_FUNCTIONS]
    left_out = ordered[len(listed) :]
    smaller = [f for f in left_out if f.kept_bytes_before]
    rows = [_row(f.function_name, [f], _outcome(f, applied, detailed)) for f in listed]
    if smaller:
        changed = sum(f.changed for f in smaller)
        rows.append(_row(f"{len(smaller)} that keep less", smaller, f"{changed} {_done(applied)}"))
    for reason in dict.fromkeys(f.reason for f in left_out if not f.kept_bytes_before):
        alike = [f for f in left_out if not f.kept_bytes_before and f.reason == reason]
        name = alike[0].function_name if len(alike) == 1 else f"{len(alike)} that keep nothing"
        rows.append(_row(name, alike, _outcome(alike[0], applied, detailed)))
    columns = (
        Column("function", "name"),
        Column("ops", "number"),
        Column("kept MiB", "number"),
        Column("outcome", "text"),
    )
    return Table(f"{len(report.functions)} functions", columns, tuple(rows))


def entry_points(report: Report, *, detailed: bool = False) -> Table:
    """What is kept when a function that programs call is differentiated.

    Args:
        report: A report on a SavedModel.
        detailed: Whether to list all of them.

    Returns:
        The table, what keeps most first; no rows where nothing is kept.
    """
    keeping = [e for e in report.entry_points if e.kept_bytes_before]
    shown = keeping if detailed else keeping[:_FUNCTIONS]
    rows = [(e.name, f"{_mib(e.kept_bytes_before)} -> {_mib(e.kept_bytes_after)}") for e in shown]
    if rest := len(keeping) - len(shown):
        rows.append((f"{rest} that keep less", ""))
    columns = (Column("called", "name"), Column("kept MiB", "number"))
    return Table("kept, by what is called", columns, tuple(rows))


def _row(name: str, reports: Sequence[Report], outcome: str) -> tuple[str, ...]:
    before = sum(r.kept_bytes_before for r in reports)
    after = sum(r.kept_bytes_after for r in reports)
    ops = sum(r.nodes_before for r in reports)
    return name, str(ops), f"{_mib(before)} -> {_mib(after)}", outcome


def _outcome(report: Report, applied: bool, detailed: bool) -> str:
    if report.changed:
        return _done(applied)
    if detailed:
        return report.reason
    return textwrap.shorten(report.reason, _REASON_WIDTH, placeholder=" ...")


def _done(applied: bool) -> str:
    return "rewritten" if applied else "would be rewritten"


def kept(report: Report, *, applied: bool, detailed: bool = False) -> Table:
    """The largest tensors that are kept in spite of the rewrite, and why.

    Args:
        report: A report on a SavedModel.
        applied: Whether its functions were rewritten, rather than looked at.
        detailed: Whether to list all of them.

    Returns:
        The table, largest first.
    """
    found = [(f.function_name, tensor) for f in report.functions for tensor in f.kept]
    found.sort(key=lambda item: -item[1].bytes)
    shown = found if detailed else found[:_TENSORS]
    columns = (
        Column("function", "name"),
        Column("tensor", "name"),
        Column("type", "text"),
        Column("MiB", "number"),
        Column("why", "text"),
    )
    rows = [(name, t.name, type_of(t), _mib(t.bytes), t.why) for name, t in shown]
    if rest := found[len(shown) :]:
        size = _mib(sum(tensor.bytes for _, tensor in rest))
        rows.append((f"{len(rest)} smaller ones", "", "", size, ""))
    verb = "are" if applied else "would be"
    title = f"largest of {len(found)} tensors that {verb} kept for the backward pass even so"
    return Table(title, columns, tuple(rows))


def totals(report: Report, min_bytes: int, *, applied: bool) -> tuple[str, ...]:
    """What is kept altogether, and how that is to be read.

    Args:
        report: A report on a SavedModel.
        min_bytes: The option of that name.
        applied: Whether its functions were rewritten, rather than looked at.

    Returns:
        Lines.
    """
    before, after = report.kept_bytes_before, report.kept_bytes_after
    changed = sum(f.changed for f in report.functions)
    less = f" ({before / after:.2f}x less)" if before > after > 0 else ""
    lines = [
        f"kept for the backward pass: {_mib(before)} -> {_mib(after)} MiB{less};"
        f" {changed} of {len(report.functions)} functions {_done(applied)}"
    ]
    if before:
        first = report.entry_points[0].name
        lines.append(f"that is {first} with all that it calls, of what is called what keeps most")
    if report.nominal_size:
        lines.append(f"unknown dimensions are counted as {report.nominal_size} (nominal_size)")
    lines.append(f"tensors below {min_bytes / 1024:g} KiB are left alone (min_bytes)")
    return tuple(lines)


def markdown(table: Table) -> str:
    """A table for Markdown.

    Args:
        table: The table.

    Returns:
        Its title and its rows.
    """
    rules = ["---:" if c.kind == "number" else "---" for c in table.columns]
    lines = [_line(c.title for c in table.columns), _line(rules)]
    lines += [_line(map(_escaped, row)) for row in table.rows]
    return "\n".join([f"**{table.title}**", "", *lines])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    """A cell's text as it is: names are full of underscores, which would make it italic."""
    for character in "\\`*_|<":
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())


def type_of(tensor: Kept) -> str:
    """Formats dtype and shape, as in float32[128,?].

    Args:
        tensor: A tensor that is kept.

    Returns:
        The text.
    """
    if tensor.shape is None:
        return f"{tensor.dtype}[...]"
    return f"{tensor.dtype}[{','.join('?' if d is None else str(d) for d in tensor.shape)}]"


def _mib(nbytes: int) -> str:
    return f"{nbytes / _MIB:.2f}"
