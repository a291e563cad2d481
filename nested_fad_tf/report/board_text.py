"""Reports as Markdown, for TensorBoard's text tab."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from nested_fad_tf.report import tables
from nested_fad_tf.report.summary import Kept, Report

_MIB = 2**20
_LAYERS, _CHAINS = 40, 30
# Scalars by tag: what they are, and how many of their units make one of those that are shown.
_FIGURES = {
    "kept_bytes": ("kept for the backward pass, MiB", _MIB),
    "predicted_peak": ("peak of a step, predicted, MiB", _MIB),
    "measured_peak": ("peak of a step, measured, MiB", _MIB),
    "step_seconds": ("time of a step, s", 1),
    "ops": ("ops that run; a fused group is one", 1),
}


def report(
    content: Report,
    *,
    applied: bool,
    kept: Sequence[Kept] = (),
    figures: Mapping[str, Mapping[str, float]] | None = None,
) -> str:
    """A report as headings and tables.

    Args:
        content: The report.
        applied: Whether what it speaks of was done, rather than planned.
        kept: What the run keeps for the backward pass.
        figures: Scalars of all runs by run and tag, to stand side by side.

    Returns:
        Markdown.
    """
    shown = [_figures(figures or {})]
    if content.functions:
        shown += [tables.entry_points(content), tables.functions(content, applied=applied)]
        shown += [_layers(kept), tables.kept(content, applied=applied)]
    else:
        whole = dataclasses.replace(content, kept=tuple(kept))
        shown += [_layers(kept), tables.kept(_as_model(whole), applied=applied), _chains(content)]
    parts = [tables.markdown(table) for table in shown if table.rows]
    if content.note:
        parts.insert(0, f"{content.note}.")
    if content.reason:
        parts.insert(0, f"`{content.function_name}` was left as it was: {content.reason}.")
    return "\n\n".join(parts)


def _as_model(content: Report) -> Report:
    return dataclasses.replace(content, functions=(content,))


def _figures(figures: Mapping[str, Mapping[str, float]]) -> tables.Table:
    rows = []
    for tag, (title, unit) in _FIGURES.items():
        values = [by_tag.get(tag) for by_tag in figures.values()]
        if any(value is not None for value in values):
            rows.append((title, *("" if v is None else _number(v / unit) for v in values)))
    columns = [tables.Column("", "text"), *(tables.Column(run, "number") for run in figures)]
    return tables.Table("Before and after", tuple(columns), tuple(rows))


def _number(value: float) -> str:
    if value == int(value):
        return str(int(value))
    return f"{value:.2f}" if value >= 1 else f"{value:.4f}"


def _layers(kept: Sequence[Kept]) -> tables.Table:
    by_layer: dict[str, list[int]] = {}
    for tensor in kept:
        by_layer.setdefault(tensor.layer, []).append(tensor.bytes)
    ordered = sorted(by_layer.items(), key=lambda item: -sum(item[1]))
    rows = [_layer_row(name or "(none)", sizes) for name, sizes in ordered[:_LAYERS]]
    if rest := ordered[_LAYERS:]:
        rows.append(_layer_row(f"{len(rest)} that keep less", [b for _, s in rest for b in s]))
    columns = (
        tables.Column("layer", "name"),
        tables.Column("tensors", "number"),
        tables.Column("MiB", "number"),
    )
    return tables.Table(f"Kept by {len(ordered)} layers", columns, tuple(rows))


def _layer_row(name: str, sizes: Sequence[int]) -> tuple[str, str, str]:
    return name, str(len(sizes)), f"{sum(sizes) / _MIB:.2f}"


def _chains(content: Report) -> tables.Table:
    rows = [
        (
            chain.name,
            f"{chain.bytes_before / _MIB:.2f} -> {chain.bytes_after / _MIB:.2f}",
            chain.action,
            chain.why,
        )
        for chain in content.chains[:_CHAINS]
    ]
    columns = (
        tables.Column("chain", "name"),
        tables.Column("kept MiB", "number"),
        tables.Column("decision", "text"),
        tables.Column("why", "text"),
    )
    count = len(content.chains)
    first = f", the first {_CHAINS}" if count > _CHAINS else ""
    return tables.Table(f"{count} chains of element-wise ops{first}", columns, tuple(rows))
