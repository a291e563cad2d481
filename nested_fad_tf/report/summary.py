"""The report: what is kept for the backward pass, before and after, and why."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import textwrap
from collections.abc import Callable
from typing import Any

from nested_fad_tf.report import files
from nested_fad_tf.report.neighbours import Neighbour
from nested_fad_tf.report.timeline import Timeline

_WIDTH = 100
_MIB = 2**20


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
        format: How it is kept: "exact"; "bits", eight booleans to a byte and exact, too; or a lossy
            format, as in `Options.precision`.
        error: For a lossy format, if `nfad.measure_errors` measured it: the norm of the difference
            between what comes back and what was stored, as a part of the norm of that.
    """

    name: str
    layer: str
    op_type: str
    shape: tuple[int | None, ...] | None
    dtype: str
    bytes: int
    why: str
    format: str = "exact"
    error: float | None = None


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
        formula: What it computes, as equations, and what their letters stand for.
        neighbours: Its ops, and those beside it.
    """

    name: str
    ops: tuple[str, ...]
    action: str
    bytes_before: int
    bytes_after: int
    why: str
    formula: tuple[str, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()


@dataclasses.dataclass(frozen=True)
class EntryPoint:
    """A function of a SavedModel that programs call: what it keeps, with all that it calls.

    Attributes:
        name: Its signature; the function's own name if it has none.
        kept_bytes_before: Bytes kept by plain TensorFlow.
        kept_bytes_after: Bytes kept now.
    """

    name: str
    kept_bytes_before: int
    kept_bytes_after: int


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
        functions: For a SavedModel: the reports on its functions.
        kept_before: What plain TensorFlow keeps for the backward pass, largest first.
        timeline_before: Simulated memory over one step of plain TensorFlow; `None` where there is
            no backward pass to simulate.
        timeline_after: The same as the function runs now.
        entry_points: For a SavedModel: the functions that programs call, what keeps most first.
            What this report says is kept is of the first one.
        predicted_seconds_again: How long what is computed a second time takes, by the prices of the
            device that were planned with. What fusing saves is not subtracted.
        note: What came of `Options.budget` and of a lossy precision; empty if there is neither.
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
    kept_before: tuple[Kept, ...] = ()
    timeline_before: Timeline | None = None
    timeline_after: Timeline | None = None
    entry_points: tuple[EntryPoint, ...] = ()
    note: str = ""
    predicted_seconds_again: float = 0.0

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
        lines += textwrap.wrap(self.note, _WIDTH, initial_indent="  ", subsequent_indent="    ")
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

    def largest_step(self) -> Report | None:
        """The report on the step that needs most memory: this one, or one of its functions.

        Returns:
            The report; `None` if no function has a backward pass that was simulated.
        """
        steps = [r for r in (self, *self.functions) if r.timeline_before is not None]
        return max(steps, key=lambda r: r.predicted_peak_before, default=None)

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
        files.write_json(pathlib.Path(path), self.to_dict())

    def to_html(self, path: str | os.PathLike[str], *, applied: bool = True) -> None:
        """Writes the report as a page: one HTML file, which loads nothing else.

        Args:
            path: The file; it is overwritten.
            applied: Whether the function was rewritten, rather than looked at.
        """
        from nested_fad_tf.report import page

        files.write(pathlib.Path(path), page.page(self, applied=applied).encode())

    def _repr_html_(self) -> str:
        """What notebooks show."""
        from nested_fad_tf.report import notebook

        return notebook.report_html(self)

    def plot(self, folder: str | os.PathLike[str]) -> list[pathlib.Path]:
        """Draws memory over one step, and what is kept by layer, as SVG and PNG.

        Args:
            folder: Where to; made if it isn't there.

        Returns:
            The files; none if nothing is kept.

        Raises:
            ImportError: If matplotlib isn't installed: it comes with the extra `plots`.
        """
        from nested_fad_tf.report import plots

        return plots.save_report(self, folder)


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
    if kept.error is not None:
        figures += f" {kept.format} off by {kept.error:.1g}"
    return _clip(f"    {figures:<38} {_tail(kept.name, 46)}")


def _chain_line(chain: ChainReport) -> str:
    figures = f"{_mib(chain.bytes_before):>8} -> {_mib(chain.bytes_after)} MiB"
    return _clip(f"    {figures:<25} {_tail(chain.name, 34):<34} {chain.action}: {chain.why}")
