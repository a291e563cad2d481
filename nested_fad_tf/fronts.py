"""Which memory budgets a step can keep to, and what each takes in time."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nested_fad_tf import pipeline
from nested_fad_tf.functions import trace
from nested_fad_tf.graph import versions
from nested_fad_tf.options import Options
from nested_fad_tf.plan.budget import MET, MISSED
from nested_fad_tf.report.front import front
from nested_fad_tf.report.units import readable

# Each budget is so much of what was reached with the one before.
_STEP = 0.8
_WIDTH = 100
_NO_STEP = "there is no backward pass in it that could keep to a budget"


@dataclasses.dataclass(frozen=True)
class BudgetPoint:
    """What comes of one budget.

    Attributes:
        budget: The budget in bytes, for `Options.budget`; `None` for none.
        peak: The predicted peak of the rewritten step, in bytes.
        seconds_again: How long what is computed a second time is predicted to take.
        how: What it takes, in words.
    """

    budget: int | None
    peak: int
    seconds_again: float
    how: str


@dataclasses.dataclass(frozen=True)
class Budgets:
    """The budgets of a step that are worth having.

    Attributes:
        function_name: The step's name.
        plain_peak: The predicted peak without the pass, in bytes.
        points: The plan without a budget, and then what budgets give, the lowest peak last. None of
            those is both slower and larger than another.
        obstacle: What stands in the way of less; or why there are no points.
    """

    function_name: str
    plain_peak: int
    points: tuple[BudgetPoint, ...]
    obstacle: str

    def summary(self, print_fn: Callable[[str], Any] = print) -> None:
        """Prints a table, at most 100 columns wide.

        Args:
            print_fn: Called with each line.
        """
        for line in self._lines():
            print_fn(line)

    def _lines(self) -> Iterator[str]:
        if self.points:
            peak = readable(self.plain_peak)
            yield f"{self.function_name}: plain TensorFlow is predicted to need {peak}"[:_WIDTH]
            yield f"  {'budget':>10}  {'peak':>10}  {'of plain':>8}  {'again':>8}  how"
        for point in self.points:
            budget = "none" if point.budget is None else readable(point.budget)
            share, again = f"{point.peak / self.plain_peak:.0%}", f"{point.seconds_again:.3f} s"
            cells = f"  {budget:>10}  {readable(point.peak):>10}  {share:>8}  {again:>8}  "
            yield (cells + point.how).rstrip()
        less = (
            f"  less: {self.obstacle}" if self.points else f"{self.function_name}: {self.obstacle}"
        )
        yield from textwrap.wrap(less, _WIDTH, subsequent_indent="    ")


def budgets(
    fn: Callable[..., Any], *args: Any, options: Options | None = None, **kwargs: Any
) -> Budgets:
    """Says which budgets a step can keep to, to choose one from.

    Traces the function once and plans it for one budget after the other, each a fifth below what
    was reached before, until one can't be met. Runs nothing.

    Examples:
        >>> weights = [tf.Variable(tf.ones([256, 256])) for _ in range(8)]
        >>> def step(x):
        ...     with tf.GradientTape() as tape:
        ...         for w in weights:
        ...             x = tf.nn.gelu(x @ w)
        ...         loss = tf.reduce_sum(x)
        ...     return tape.gradient(loss, weights)
        >>> found = nfad.budgets(step, tf.TensorSpec([4096, 256]))
        >>> found.plain_peak > found.points[0].peak > found.points[-1].peak
        True

    Args:
        fn: A Python function, a `tf.function` or a `ConcreteFunction`.
        *args: Its arguments: values or `tf.TensorSpec`s. A `ConcreteFunction` needs none.
        options: What a rewrite might do, whatever budget they name.
        **kwargs: Its keyword arguments.

    Returns:
        The budgets that are worth having; `summary()` prints them.

    Raises:
        OptionsError: If the strategy keeps to no budget.
        RewriteError: If planning fails and `options.on_error` is "raise".
    """
    if reason := versions.warn_if_unsupported():
        return Budgets(getattr(fn, "__name__", "function"), 0, (), reason)
    options = (options or Options()).replace(budget=None)
    graph = trace(fn, args, kwargs)
    report = pipeline.rewrite_graph(graph, options, apply=False)
    name, plain_peak = report.function_name, report.predicted_peak_before
    if report.timeline_before is None:
        return Budgets(name, plain_peak, (), report.reason or _NO_STEP)
    unlimited = BudgetPoint(None, report.predicted_peak_after, report.predicted_seconds_again, "")
    found: list[BudgetPoint] = []
    while True:
        budget = int(_STEP * report.predicted_peak_after)
        report = pipeline.rewrite_graph(graph, options.replace(budget=budget), apply=False)
        if report.timeline_before is None:
            return Budgets(name, plain_peak, (unlimited, *_worth_having(found)), report.reason)
        peak, seconds = report.predicted_peak_after, report.predicted_seconds_again
        _, met, how = report.note.partition(MET)
        if peak > budget:
            _, _, obstacle = report.note.partition(MISSED)
            points = (unlimited, *_worth_having(found))
            return Budgets(name, plain_peak, points, obstacle or report.reason)
        found.append(BudgetPoint(budget, peak, seconds, how if met else report.note))


def _worth_having(points: Sequence[BudgetPoint]) -> list[BudgetPoint]:
    best = set(front((point.seconds_again, float(point.peak)) for point in points))
    return [point for point in points if (point.seconds_again, float(point.peak)) in best]
