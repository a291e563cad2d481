"""Reports from plans."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.graph.roles import Roles
from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.options import Options
from nested_fad_tf.plan.outside import OutsidePlan, Residual
from nested_fad_tf.plan.plan import Decision, Keep, Plan
from nested_fad_tf.plan.rewrite import SCOPE
from nested_fad_tf.report.formulas import formula_of
from nested_fad_tf.report.neighbours import neighbours_of, sources_of
from nested_fad_tf.report.summary import ChainReport, EntryPoint, Kept, Report
from nested_fad_tf.report.timeline import timeline_of

_READ_BY_OTHERS = "read by the gradient of an op that is no chain"
_READ_BY_CHAIN = "read by the gradient of an op of a chain"
_LEFT_ALONE = "nothing less would do for this chain's gradient"
_RESIDUAL = "what this chain's gradient is computed from"
_DERIVATIVE = "computed in the forward pass for this chain's gradient"
_EXACT_OUTSIDE = (
    "differentiated from outside: what is kept is exact there, whatever the options say"
)
_LONGEST_WHY = 240


def unchanged(name: str, reason: str, strategy: str, nodes: int = 0) -> Report:
    """A report on a function that was left as it was before anything was planned.

    Args:
        name: The function.
        reason: Why.
        strategy: The strategy asked for.
        nodes: Ops in the graph, if anybody looked.

    Returns:
        The report.
    """
    return Report(name, False, reason, strategy, nodes_before=nodes, nodes_after=nodes)


def from_plan(view: GraphView, plan: Plan, roles: Roles) -> Report:
    """A report on a plan.

    Args:
        view: The graph.
        plan: What is done with it.
        roles: The roles of its ops.

    Returns:
        The report.
    """
    unknown = any(v.shape is None or None in v.shape for v in view.values)
    backward = [a or b for a, b in zip(roles.cotangent, roles.gradient_scope, strict=True)]
    before, after = ({k.value.id for k in keeps} for keeps in (plan.kept_before, plan.kept_after))

    added = [(k, sources_of(k.value.node)) for k in plan.kept_after if k.value.node.origin]

    def chain(decision: Decision) -> ChainReport:
        nodes = decision.chain.nodes
        new = [keep for keep, sources in added if any(n.id in sources for n in nodes)]
        bytes_after = sum(v.nbytes for v in decision.kept) + sum(k.nbytes for k in new)
        made = [keep.value.node for keep in new]
        return ChainReport(
            name=decision.chain.name,
            ops=tuple(node.op_type for node in nodes),
            action=decision.action,
            bytes_before=sum(v.nbytes for v in decision.chain.kept_today),
            bytes_after=bytes_after,
            why=decision.why,
            formula=formula_of(view, nodes, backward),
            neighbours=neighbours_of(view, nodes, made, before, after, backward),
        )

    timeline = timeline_of(view, roles, plan.before)
    return Report(
        function_name=view.name,
        changed=bool(plan.rewrite),
        reason=plan.reason,
        note=plan.note,
        strategy=plan.strategy,
        chains=tuple(map(chain, plan.decisions)),
        kept=_largest_first(map(_kept, plan.kept_after)),
        kept_bytes_before=sum(k.nbytes for k in plan.kept_before),
        kept_bytes_after=sum(k.nbytes for k in plan.kept_after),
        predicted_peak_before=plan.before.peak_bytes,
        predicted_peak_after=plan.after.peak_bytes,
        predicted_seconds_again=plan.seconds_again,
        nodes_before=plan.before.nodes,
        nodes_after=plan.after.nodes,
        nominal_size=view.nominal if unknown else None,
        gradient_seeds=tuple(v.name for v in roles.seeds),
        kept_before=_largest_first(map(_kept, plan.kept_before)),
        timeline_before=timeline,
        timeline_after=timeline_of(view, roles, plan.after) if plan.rewrite else timeline,
    )


def from_outside_plan(view: GraphView, plan: OutsidePlan, options: Options, reason: str) -> Report:
    """A report on a function that is differentiated from outside.

    Args:
        view: The graph.
        plan: What is done with it.
        options: What was asked for.
        reason: Why nothing is done; empty if something is.

    Returns:
        The report. Peaks are 0: there is no backward pass yet to simulate.
    """
    anyway = [_kept_value(v, v.nbytes, _READ_BY_OTHERS) for v in plan.kept_anyway]
    alone = [_kept_value(v, v.nbytes, _LEFT_ALONE) for _, vs in plan.left_alone for v in vs]
    today = [_kept_value(v, v.nbytes, _READ_BY_CHAIN) for r in plan.residuals for v in r.today]
    kept = [*anyway, *alone, *(k for r in plan.residuals for k in _kept_of(r))]
    kept_before = [*anyway, *alone, *today]
    before = {v.id for v in plan.kept_anyway}
    before.update(v.id for _, vs in plan.left_alone for v in vs)
    after = before | {v.storage.id for r in plan.residuals for v in r.values}
    before.update(v.id for r in plan.residuals for v in r.today)
    no_backward = [False] * len(view.nodes)

    def chain(residual: Residual) -> ChainReport:
        nodes = residual.cone.nodes
        count = len(residual.kept)
        new = [e for e in residual.kept if e not in residual.computed]
        return ChainReport(
            name=residual.cone.output.node.name,
            ops=tuple(node.op_type for node in nodes),
            action="keep derivatives" if new else "recompute",
            bytes_before=residual.bytes_before,
            bytes_after=residual.bytes_after,
            why=f"its gradient is computed from {count} tensor{'s' if count != 1 else ''}",
            formula=formula_of(view, nodes, no_backward),
            neighbours=neighbours_of(view, nodes, (), before, after, no_backward),
        )

    unknown = any(v.shape is None or None in v.shape for v in view.values)
    return Report(
        function_name=view.name,
        changed=bool(plan.residuals),
        reason=reason,
        strategy=options.strategy,
        chains=tuple(map(chain, plan.residuals)),
        kept=_largest_first(kept),
        kept_bytes_before=sum(k.bytes for k in kept_before),
        kept_bytes_after=sum(k.bytes for k in kept),
        nodes_before=view.op_count,
        nodes_after=view.op_count,
        nominal_size=view.nominal if unknown else None,
        kept_before=_largest_first(kept_before),
        note=_EXACT_OUTSIDE if options.lossy and plan.residuals else "",
    )


def combined(
    name: str,
    reports: Sequence[Report],
    entries: Sequence[tuple[str, Sequence[Report]]],
    strategy: str,
    seconds: float,
) -> Report:
    """One report on several functions.

    Args:
        name: What holds them.
        reports: The reports on each.
        entries: For each function that programs call its name, and the reports on all that runs
            then, as often as it does.
        strategy: The strategy asked for.
        seconds: Time spent.

    Returns:
        The report. What is kept is that of the function that keeps most; the sum over all would be
        of what never runs together.
    """
    changed = any(r.changed for r in reports)
    reasons = dict.fromkeys(r.reason for r in reports if r.reason)
    notes = dict.fromkeys(r.note for r in reports if r.note)
    nominal = [r.nominal_size for r in reports if r.nominal_size]
    ordered = sorted(entries, key=lambda entry: -_entry_point(*entry).kept_bytes_before)
    points = tuple(_entry_point(*entry) for entry in ordered)
    run = ordered[0][1] if ordered else ()
    return Report(
        function_name=name,
        changed=changed,
        reason="" if changed else "; ".join(reasons) or "it holds no functions",
        strategy=strategy,
        chains=tuple(c for r in reports for c in r.chains),
        kept=_largest_first(k for r in run for k in r.kept),
        kept_bytes_before=points[0].kept_bytes_before if points else 0,
        kept_bytes_after=points[0].kept_bytes_after if points else 0,
        nodes_before=sum(r.nodes_before for r in reports),
        nodes_after=sum(r.nodes_after for r in reports),
        seconds=seconds,
        nominal_size=nominal[0] if nominal else None,
        functions=tuple(reports),
        kept_before=_largest_first(k for r in run for k in r.kept_before),
        entry_points=points,
        note="; ".join(notes),
    )


def _entry_point(name: str, run: Sequence[Report]) -> EntryPoint:
    before = sum(r.kept_bytes_before for r in run)
    return EntryPoint(name, before, sum(r.kept_bytes_after for r in run))


def _largest_first(kept: Iterable[Kept]) -> tuple[Kept, ...]:
    return tuple(sorted(kept, key=lambda k: -k.bytes))


def _kept_of(residual: Residual) -> Iterator[Kept]:
    """What a chain's gradient is computed from, but for what is kept anyway."""
    output, made = residual.cone.output, residual.made
    for expr, size in zip(residual.kept, residual.sizes, strict=True):
        value, why = residual.computed.get(expr), _RESIDUAL
        if value is None:
            why = textwrap.shorten(f"{_DERIVATIVE}: {expr}", _LONGEST_WHY, placeholder=" ...")
        kept = _kept_value(value or output, size, why)
        if expr in made:
            kept = dataclasses.replace(kept, name=f"{SCOPE}/{output.node.name}/{made[expr]}:0")
        if size:
            yield kept


def _kept(keep: Keep) -> Kept:
    kept = _kept_value(keep.value, keep.nbytes, keep.why)
    return dataclasses.replace(kept, format=keep.format)


def _kept_value(value: Value, nbytes: int, why: str) -> Kept:
    return Kept(
        name=value.name,
        layer=_layer(value).name.rpartition("/")[0],
        op_type=value.node.op_type,
        shape=value.shape,
        dtype=value.dtype.name,
        bytes=nbytes,
        why=why,
    )


def _layer(value: Value) -> Node:
    """The op whose layer a tensor belongs to: that of an added op is where it reads most."""
    if value.node.origin is None:
        return value.node
    sources = sources_of(value.node).values()
    return max(sources, key=lambda n: sum(v.nbytes for v in n.outputs), default=value.node)
