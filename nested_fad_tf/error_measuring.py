"""`nfad.measure_errors`: what is lost of each tensor that is kept in fewer bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from nested_fad_tf import functions, pipeline
from nested_fad_tf.emit import probe
from nested_fad_tf.errors import OptionsError, UnsupportedVersionError
from nested_fad_tf.graph import tracing, versions
from nested_fad_tf.graph.nodes import Value
from nested_fad_tf.options import Options
from nested_fad_tf.plan.plan import Plan
from nested_fad_tf.report.summary import Report


def measure_errors(fn: Callable[..., Any], *args: Any, options: Options, **kwargs: Any) -> Report:
    """Measures what a lossy precision loses of each kept tensor, in one run of a step.

    A derivative that comes back with an error of 0.01 multiplies its cotangent with just that
    error; so does an activation that a weight's gradient is a product with. What gradients are off
    by as a whole is less, for the errors of many numbers cancel.

    The step runs once, with plain ops, and variables are given back the values that they had.

    Examples:
        >>> w = tf.Variable(tf.random.normal([256, 256], stddev=0.1))
        >>> def step(x):
        ...     with tf.GradientTape() as tape:
        ...         for _ in range(4):
        ...             x = tf.nn.gelu(x @ w)
        ...         loss = tf.reduce_mean(x @ w)
        ...     return tape.gradient(loss, w)
        >>> options = nfad.Options(activations="int8")
        >>> report = nfad.measure_errors(step, tf.random.normal([512, 256]), options=options)
        >>> lossy = [kept for kept in report.kept if kept.format == "int8"]
        >>> len(lossy) > 0 and all(0 < kept.error < 0.02 for kept in lossy)
        True

    Args:
        fn: A Python function, a `tf.function` or a `ConcreteFunction`.
        *args: Its arguments: values.
        options: What the rewrite does; something lossy among it.
        **kwargs: Its keyword arguments.

    Returns:
        The report, with the `error` of what is kept with a loss. If the plan keeps nothing so,
        there is none, and the report's note says why.

    Raises:
        OptionsError: If the options name nothing lossy.
        RewriteError: If the pass fails.
        UnsupportedVersionError: If the installed TensorFlow isn't supported.
    """
    if not options.lossy:
        raise OptionsError(
            "nothing is lossy with these options: measure_errors needs a precision or activations"
            " other than 'exact'"
        )
    if reason := versions.unsupported():
        raise UnsupportedVersionError(reason)
    # A tensor that is made and read inside of one compiled group could not be looked at.
    options = options.replace(fuse="ops", on_error="raise")
    python_function, args, kwargs = functions.traceable(fn, args, kwargs)
    concrete, report, plan = _trace(python_function, args, kwargs, options)
    if plan is None:
        return report
    return _with_errors(report, plan, _run(concrete, args, kwargs))


def _trace(
    python_function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: Options,
) -> tuple[Any, Report, Plan | None]:
    """Rewrites a step as it is traced, and lets it return the errors, too.

    Returns:
        The `ConcreteFunction`; what was done to it; the plan, if it changes anything.
    """
    rewritten: dict[int, tuple[Report, Plan | None]] = {}  # by the id of the graph

    def with_errors(*args: Any, **kwargs: Any) -> Any:
        return python_function(*args, **kwargs), probe.outlet()

    with_errors.__name__ = getattr(python_function, "__name__", "function")
    outer = tracing.outer_graph()

    def observe(graph: Any) -> None:
        if not tracing.is_nested_in(graph, outer):
            pipeline.rewrite_graph(graph, options)
            return
        plans: list[Plan] = []

        def applied(plan: Plan, tensor_of: Callable[[Value], tf.Tensor]) -> None:
            plans.append(plan)
            probe.connect(graph, plan.rewrite.restored, tensor_of)

        report = pipeline.rewrite_graph(graph, options, applied=applied)
        rewritten[id(graph)] = report, plans[0] if plans else None

    with tracing.observing(observe):
        concrete = tf.function(with_errors).get_concrete_function(*args, **kwargs)
    return concrete, *rewritten[id(concrete.graph)]


def _run(concrete: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[float]:
    """Runs a step once, and undoes it."""
    variables = concrete.graph.variables
    before = [variable.numpy() for variable in variables]
    _, errors = concrete(*args, **kwargs)
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)
    return [float(error) for error in errors.numpy()]


def _with_errors(report: Report, plan: Plan, errors: list[float]) -> Report:
    # Backwards: what comes back for several readers does so in the same way, and counts once.
    by_value = {
        item.kept.id: error
        for item, error in zip(reversed(plan.rewrite.restored), reversed(errors), strict=True)
    }
    # The report lists what the plan keeps, the largest first.
    planned = sorted(plan.kept_after, key=lambda keep: -keep.nbytes)
    kept = tuple(
        dataclasses.replace(told, error=by_value.get(keep.value.id))
        for told, keep in zip(report.kept, planned, strict=True)
    )
    return dataclasses.replace(report, kept=kept)
