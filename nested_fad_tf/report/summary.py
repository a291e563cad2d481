"""The report: what is kept for the backward pass, before and after, and why."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from nested_fad_tf.graph.view import GraphView, Value
from nested_fad_tf.ops.expr import Leaf
from nested_fad_tf.plan.outside import OutsidePlan, Residual
from nested_fad_tf.plan.plan import Decision, Keep, Plan

_WIDTH = 100
_MIB = 2**20
_READ_BY_OTHERS = "read by the gradient of an op that is no chain"
_LEFT_ALONE = "nothing less would do for this chain's gradient"
_RESIDUAL = "what this chain's gradient is computed from"


@dataclasses.dataclass(frozen=True)
class Kept:
    """A tensor that is kept for the backward pass.

    Attributes:
        name: TensorFlow's name of the tensor.
        layer: Name scope of the op that makes it: the layer.
        op_type: Type of that op.
        shape: Static shape, `None` for an unknown dimension.
        dtype: Name of the dtype.
        bytes: What keeping it takes; unknown dimensions at the report's nominal size.
        why: Why it is kept.
    """

    name: str
    layer: str
    op_type: str
    shape: tuple[int | None, ...] | None
    dtype: str
    bytes: int
    why: str


@dataclasses.dataclass(frozen=True)
class ChainReport:
    """What was decided about one chain of element-wise ops.

    Attributes:
        name: The scope its ops share.
        ops: Their types, in order.
        action: "recompute", "keep derivatives", "keep" or "left alone".
        bytes_before: What TensorFlow keeps of it.
        bytes_after: What is kept of it now.
        why: The reason.
    """

    name: str
    ops: tuple[str, ...]
    action: str
    bytes_before: int
    bytes_after: int
    why: str


@dataclasses.dataclass(frozen=True)
class Report:
    """What was done to one traced function.

    Examples:
        >>> weights = tf.Variable(tf.ones([512, 512]))
        >>> def gradient(x):
        ...     return tf.gradients(tf.reduce_sum(tf.nn.gelu(x @ weights)), x)
        >>> report = nfad.explain(gradient, tf.TensorSpec([2048, 512]))
        >>> [(kept.op_type, kept.shape, kept.bytes) for kept in report.kept]
        [('MatMul', (2048, 512), 4194304)]
        >>> [(chain.name, chain.action) for chain in report.chains]
        [('Gelu', 'recompute')]

    Attributes:
        function_name: The function.
        changed: Whether it was rewritten.
        reason: Why it was not; empty if it was.
        strategy: The strategy.
        chains: Decisions, in order of execution.
        kept: What is kept for the backward pass as the function runs now, largest first.
        kept_bytes_before: Bytes kept by plain TensorFlow.
        kept_bytes_after: Bytes kept now.
        predicted_peak_before: Simulated peak of plain TensorFlow, above what lived before the step.
        predicted_peak_after: The same as the function runs now.
        nodes_before: Ops of the traced graph that run.
        nodes_after: Ops that run now; a fused op counts as one.
        seconds: Time spent on rewriting.
        nominal_size: What unknown dimensions were taken to be; `None` if there are none.
        gradient_seeds: Names of the tensors recognised as seeds of gradient computations.
        functions: For a SavedModel: the reports on its functions, whose sums this one holds.
    """

    function_name: str
    changed: bool
    reason: str
    strategy: str
    chains: tuple[ChainReport, ...] = ()
    kept: tuple[Kept, ...] = ()
    kept_bytes_before: int = 0
    kept_bytes_after: int = 0
    predicted_peak_before: int = 0
    predicted_peak_after: int = 0
    nodes_before: int = 0
    nodes_after: int = 0
    seconds: float = 0.0
    nominal_size: int | None = None
    gradient_seeds: tuple[str, ...] = ()
    functions: tuple[Report, ...] = ()

    def summary(self, print_fn: Callable[[str], Any] = print, detailed: bool = False) -> None:
        """Prints the report, at most 100 columns wide.

        Args:
            print_fn: Called with each line.
            detailed: Whether to list everything that is kept, and every chain.
        """
        for line in self._lines(detailed):
            print_fn(line)

    def _lines(self, detailed: bool) -> list[str]:
        state = "rewritten" if self.changed else "left as it was"
        lines = [_clip(f"{self.function_name}: {state} (strategy {self.strategy})")]
        if self.reason:
            lines.append(_clip(f"  {self.reason}"))
        if self.kept_bytes_before:
            lines += self._figures()
        shown = self.kept if detailed else self.kept[:10]
        if shown:
            lines += ["  kept for the backward pass, largest first:", *map(_kept_line, shown)]
            if len(shown) < len(self.kept):
                lines.append(f"    ... and {len(self.kept) - len(shown)} more")
        if detailed and self.chains:
            lines += ["  chains:", *map(_chain_line, self.chains)]
        return lines

    def _figures(self) -> list[str]:
        nominal = (
            f" (unknown dimensions counted as {self.nominal_size})" if self.nominal_size else ""
        )
        before, after = self.kept_bytes_before, self.kept_bytes_after
        peak_before, peak_after = self.predicted_peak_before, self.predicted_peak_after
        lines = [f"  kept for the backward pass {_mib(before)} -> {_mib(after)} MiB{nominal}"]
        if peak_before:
            lines.append(
                f"  predicted peak of the step {_mib(peak_before)} -> {_mib(peak_after)} MiB"
                f" ({peak_before / max(1, peak_after):.2f}x)"
            )
        ops = f"{self.nodes_before} -> {self.nodes_after}"
        return [*lines, f"  {ops} ops, rewritten in {self.seconds:.2f} s"]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values.

        Returns:
            A dictionary that JSON can hold.
        """
        return dataclasses.asdict(self)

    def to_json(self, path: str | pathlib.Path) -> None:
        """Writes the report to a file.

        Args:
            path: The file; it is overwritten.
        """
        text = json.dumps(self.to_dict(), indent=2)
        pathlib.Path(path).write_text(text + "\n", encoding="utf-8")


def _mib(nbytes: int) -> str:
    return f"{nbytes / _MIB:.1f}"


def _clip(text: str) -> str:
    return text if len(text) <= _WIDTH else text[: _WIDTH - 3] + "..."


def _tail(text: str, width: int) -> str:
    """The end of a name: the scopes at its beginning tell least."""
    return text if len(text) <= width else "..." + text[3 - width :]


def _kept_line(kept: Kept) -> str:
    shape = (
        "?" if kept.shape is None else "x".join("?" if d is None else str(d) for d in kept.shape)
    )
    figures = f"{_mib(kept.bytes):>8} MiB  {kept.dtype} {shape}"
    return _clip(f"    {figures:<38} {_tail(kept.name, 46)}")


def _chain_line(chain: ChainReport) -> str:
    figures = f"{_mib(chain.bytes_before):>8} -> {_mib(chain.bytes_after)} MiB"
    return _clip(f"    {figures:<25} {_tail(chain.name, 34):<34} {chain.action}: {chain.why}")


def unchanged(name: str, reason: str, strategy: str, nodes: int, seconds: float) -> Report:
    """A report on a function that was left as it was before anything was planned.

    Args:
        name: The function.
        reason: Why.
        strategy: The strategy asked for.
        nodes: Ops in the graph.
        seconds: Time spent finding out.

    Returns:
        The report.
    """
    return Report(
        name, False, reason, strategy, nodes_before=nodes, nodes_after=nodes, seconds=seconds
    )


def from_plan(view: GraphView, plan: Plan, seeds: Sequence[Value], seconds: float) -> Report:
    """A report on a plan.

    Args:
        view: The graph.
        plan: What is done with it.
        seeds: The gradient seeds that were found.
        seconds: Time spent.

    Returns:
        The report.
    """
    unknown = any(v.shape is None or None in v.shape for v in view.values)
    kept = sorted(map(_kept, plan.kept_after), key=lambda k: -k.bytes)
    return Report(
        function_name=view.name,
        changed=bool(plan.rewrite),
        reason=plan.reason,
        strategy=plan.strategy,
        chains=tuple(map(_chain, plan.decisions)),
        kept=tuple(kept),
        kept_bytes_before=sum(k.nbytes for k in plan.kept_before),
        kept_bytes_after=sum(k.nbytes for k in plan.kept_after),
        predicted_peak_before=plan.before.peak_bytes,
        predicted_peak_after=plan.after.peak_bytes,
        nodes_before=plan.before.nodes,
        nodes_after=plan.after.nodes,
        seconds=seconds,
        nominal_size=view.nominal if unknown else None,
        gradient_seeds=tuple(v.name for v in seeds),
    )


def from_outside_plan(
    view: GraphView, plan: OutsidePlan, strategy: str, reason: str, seconds: float
) -> Report:
    """A report on a function that is differentiated from outside.

    Args:
        view: The graph.
        plan: What is done with it.
        strategy: The strategy asked for.
        reason: Why nothing is done; empty if something is.
        seconds: Time spent.

    Returns:
        The report. Peaks are 0: there is no backward pass yet to simulate.
    """
    anyway = [_kept_value(v, v.nbytes, _READ_BY_OTHERS) for v in plan.kept_anyway]
    cones = [_kept_of(r) for r in plan.residuals if r.bytes_after]
    alone = [_kept_value(c.output, size, _LEFT_ALONE) for c, size in plan.left_alone if size]
    kept = sorted([*anyway, *cones, *alone], key=lambda k: -k.bytes)
    after = sum(k.bytes for k in kept)
    spared = sum(r.bytes_before - r.bytes_after for r in plan.residuals)
    unknown = any(v.shape is None or None in v.shape for v in view.values)
    return Report(
        function_name=view.name,
        changed=bool(plan.residuals),
        reason=reason,
        strategy=strategy,
        chains=tuple(map(_cone, plan.residuals)),
        kept=tuple(kept),
        kept_bytes_before=after + spared,
        kept_bytes_after=after,
        nodes_before=len(view.nodes),
        nodes_after=len(view.nodes),
        seconds=seconds,
        nominal_size=view.nominal if unknown else None,
    )


def combined(name: str, reports: Sequence[Report], strategy: str, seconds: float) -> Report:
    """One report on several functions.

    Args:
        name: What holds them.
        reports: The reports on each.
        strategy: The strategy asked for.
        seconds: Time spent.

    Returns:
        Their sums. Functions that call each other, or stand for each other, aren't told apart.
    """
    changed = any(r.changed for r in reports)
    reasons = dict.fromkeys(r.reason for r in reports if r.reason)
    nominal = [r.nominal_size for r in reports if r.nominal_size]
    return Report(
        function_name=name,
        changed=changed,
        reason="" if changed else "; ".join(reasons) or "it holds no functions",
        strategy=strategy,
        chains=tuple(c for r in reports for c in r.chains),
        kept=tuple(sorted((k for r in reports for k in r.kept), key=lambda k: -k.bytes)),
        kept_bytes_before=sum(r.kept_bytes_before for r in reports),
        kept_bytes_after=sum(r.kept_bytes_after for r in reports),
        nodes_before=sum(r.nodes_before for r in reports),
        nodes_after=sum(r.nodes_after for r in reports),
        seconds=seconds,
        nominal_size=nominal[0] if nominal else None,
        functions=tuple(reports),
    )


def _kept_of(residual: Residual) -> Kept:
    forms = ", ".join(sorted({str(e) for e in residual.kept}))
    return _kept_value(residual.cone.output, residual.bytes_after, f"{_RESIDUAL}: {forms}")


def _cone(residual: Residual) -> ChainReport:
    cone = residual.cone
    new = [e for e in residual.kept if not isinstance(e, Leaf)]
    return ChainReport(
        name=cone.output.node.name,
        ops=tuple(node.op_type for node in cone.nodes),
        action="keep derivatives" if new else "recompute",
        bytes_before=residual.bytes_before,
        bytes_after=residual.bytes_after,
        why=f"its gradient is computed from {len(residual.kept)} tensors",
    )


def _kept(keep: Keep) -> Kept:
    return _kept_value(keep.value, keep.nbytes, keep.why)


def _kept_value(value: Value, nbytes: int, why: str) -> Kept:
    return Kept(
        name=value.name,
        layer=value.node.name.rpartition("/")[0],
        op_type=value.node.op_type,
        shape=value.shape,
        dtype=value.dtype.name,
        bytes=nbytes,
        why=why,
    )


def _chain(decision: Decision) -> ChainReport:
    chain = decision.chain
    return ChainReport(
        name=chain.name,
        ops=tuple(node.op_type for node in chain.nodes),
        action=decision.action,
        bytes_before=sum(v.nbytes for v in chain.kept_today),
        bytes_after=sum(v.nbytes for v in decision.kept),
        why=decision.why,
    )
