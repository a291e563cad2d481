"""The report as a page: one HTML file that needs nothing else."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from importlib import resources
from typing import Any

import jinja2
import markupsafe

from nested_fad_tf.report import layers
from nested_fad_tf.report.curves import curves_of
from nested_fad_tf.report.summary import ChainReport, Kept, Report
from nested_fad_tf.report.tables import type_of
from nested_fad_tf.report.units import ratio, readable

_SCRIPTS = ("common.js", "tensors.js", "layers.js", "graph.js", "chains.js")
_RECOMPUTED = "no longer kept: the backward pass computes it again"
_DERIVED = "no longer kept: a derivative is, in its place"
_OUTSIDE = "no longer kept: the chain's gradient is computed from less"


def page(report: Report, *, applied: bool = True) -> str:
    """Writes a report as a page.

    Args:
        report: The report.
        applied: Whether the function was rewritten, rather than looked at.

    Returns:
        HTML. It loads nothing, and all names in it are escaped.
    """
    step = report.largest_step()
    done = "rewritten" if applied else "can be rewritten"
    return (
        environment()
        .get_template("page.html")
        .render(
            report=report,
            state=done if report.changed else "left as it was",
            step=step,
            curves=None if step is None else curves_of(step),
            data=_embedded(_data(report)),
            style=_asset("page.css"),
            scripts=markupsafe.Markup("\n").join(map(_asset, _SCRIPTS)),
        )
    )


def environment() -> jinja2.Environment:
    """The templates of this package; whatever they print is escaped.

    Returns:
        The environment, with filters for sizes.
    """
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("nested_fad_tf.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(readable=readable, breakable=_breakable, type_of=type_of)
    made.globals.update(ratio=ratio)
    return made


def _breakable(name: str) -> markupsafe.Markup:
    """A long name that may be broken after each slash."""
    parts = [markupsafe.escape(part) for part in name.split("/")]
    return markupsafe.Markup("/<wbr>").join(parts)


def _asset(name: str) -> markupsafe.Markup:
    file = resources.files("nested_fad_tf.report") / "templates" / name
    return markupsafe.Markup(file.read_text(encoding="utf-8"))


def _embedded(data: Any) -> markupsafe.Markup:
    """JSON that can't end the element it is in."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return markupsafe.Markup(text)


def _data(report: Report) -> dict[str, Any]:
    """What the scripts of the page show, with texts that repeat said once."""
    parts = report.functions or (report,)
    whys: dict[str, int] = {}
    tensors = [
        [number, *row[:-1], whys.setdefault(row[-1], len(whys))]
        for number, part in enumerate(parts)
        for row in _rows(part)
    ]
    return {
        "functions": [part.function_name for part in parts],
        "whys": list(whys),
        "tensors": tensors,
        "chains": [_chain(n, chain) for n, part in enumerate(parts) for chain in part.chains],
    }


def _rows(report: Report) -> Iterator[tuple[Any, ...]]:
    """One row a tensor: layer, name, op, type, bytes before and after, why."""
    before, after = _by_name(report.kept_before), _by_name(report.kept)
    for name in {**before, **after}:
        old, new = before.get(name), after.get(name)
        kept = new or old
        assert kept is not None
        yield (
            "/".join(layers.path_of(kept.layer)),
            name.rpartition("/")[2],
            kept.op_type,
            type_of(kept),
            old.bytes if old else 0,
            new.bytes if new else 0,
            new.why if new else _why_dropped(report),
        )


def _by_name(kept: Iterable[Kept]) -> dict[str, Kept]:
    """One for each name: what two chains keep of the same tensor is added up."""
    found: dict[str, Kept] = {}
    for item in kept:
        more = found[item.name].bytes if item.name in found else 0
        found[item.name] = dataclasses.replace(item, bytes=item.bytes + more)
    return found


def _why_dropped(report: Report) -> str:
    if not report.gradient_seeds:
        return _OUTSIDE
    return _DERIVED if report.strategy == "forward_ad" else _RECOMPUTED


def _chain(function: int, chain: ChainReport) -> dict[str, Any]:
    return {
        "function": function,
        "name": chain.name,
        "last": _last_op(chain),
        "ops": len(chain.ops),
        "action": chain.action,
        "before": chain.bytes_before,
        "after": chain.bytes_after,
        "why": chain.why,
        "formula": chain.formula,
        "nodes": [
            [n.name, n.op_type, n.kind, n.tensor, n.bytes, n.kept, n.reads]
            for n in chain.neighbours
        ],
    }


def _last_op(chain: ChainReport) -> str:
    """Name of the chain's last op below the chain's own name, which others may have, too."""
    own = [n.name for n in chain.neighbours if n.kind == "chain"]
    return own[-1].removeprefix(f"{chain.name}/") if own else ""
