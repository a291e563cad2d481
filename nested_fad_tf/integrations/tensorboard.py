"""`nfad.tensorboard`: a function and its rewrite side by side in TensorBoard."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from nested_fad_tf import pipeline
from nested_fad_tf.functions import traceable
from nested_fad_tf.graph import tracing, versions
from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.options import Options
from nested_fad_tf.report import memory, step_runs, tensorboard
from nested_fad_tf.report.building import unchanged
from nested_fad_tf.report.summary import Report

__all__ = ["compare"]


def compare(
    fn: Callable[..., Any],
    *args: Any,
    log_dir: str | os.PathLike[str],
    options: Options | None = None,
    runs: int = 5,
    **kwargs: Any,
) -> Report:
    """Writes a function and its rewrite as the runs `original` and `rewritten` of one folder.

    Both have the graph with what is kept for the backward pass, fused and recomputed marked by
    scopes; the report as text; predicted and measured peak, kept bytes and seconds a step as
    scalars; what is kept by layer as a histogram; the memory over a step as images, if matplotlib
    is installed.

    To measure, the function is run for real, about a dozen times each way. The variables that it
    changes get their values back, so that training does not move on.

    Examples:
        >>> layer = tf.keras.layers.Dense(256, activation="mish")
        >>> def train_step(x):
        ...     with tf.GradientTape() as tape:
        ...         loss = tf.reduce_sum(layer(layer(layer(x))))
        ...     return tape.gradient(loss, layer.trainable_variables)
        >>> nfad.tensorboard.compare(train_step, tf.ones([1024, 256]), log_dir="logs").changed
        True

    Args:
        fn: A Python function, a `tf.function` or a `ConcreteFunction`.
        *args: Its arguments, as for `nfad.rewrite`. With `tf.TensorSpec`s among them nothing is
            measured.
        log_dir: The folder to write to; what is in it stays.
        options: What the rewrite may do; `Options()` by default.
        runs: How many calls are timed; 0 to measure nothing.
        **kwargs: Keyword arguments of the function.

    Returns:
        The report on the rewrite. On a TensorFlow that isn't supported it says so; the function is
        not run then, and nothing is written.

    Raises:
        RewriteError: If the rewrite fails and `options.on_error` is "raise".
    """
    options = options or Options()
    if reason := versions.warn_if_unsupported():
        name = getattr(fn, "__name__", "function")
        return unchanged(name, reason, options.strategy)
    python_function, args, kwargs = traceable(fn, args, kwargs)
    step = Rewritten(python_function, args, kwargs, options)
    measured = {}
    given = tf.nest.flatten((args, kwargs), expand_composites=True)
    if runs and not any(isinstance(value, tf.TypeSpec) for value in given):
        original = tf.function(python_function)
        for name, function in (
            (tensorboard.ORIGINAL, original),
            (tensorboard.REWRITTEN, step.function),
        ):
            with tracing.observing(None), _restoring(step.graph.variables):
                measured[name] = memory.measure(function, *args, runs=runs, **kwargs)
    tensorboard.write(pathlib.Path(log_dir), step.runs(measured))
    return step.report


class Rewritten:
    """A function that is traced and rewritten, and what was known of it before.

    Args:
        python_function: The function.
        args: What to trace it for.
        kwargs: The same, by name.
        options: What the rewrite may do.

    Attributes:
        function: The `tf.function`.
        graph: Its graph, rewritten.
        report: The report on it.
        view: Its graph before; as it is, if the pass failed and nothing was changed.
    """

    def __init__(
        self, python_function: Callable[..., Any], args: Any, kwargs: Any, options: Options
    ) -> None:
        self._options = options
        self._outer = tracing.outer_graph()
        self._seen: GraphView | None = None
        self.function = tf.function(python_function)
        with tracing.observing(self._rewrite):
            self.graph = self.function.get_concrete_function(*args, **kwargs).graph
        self.view = self._seen or GraphView.from_func_graph(self.graph)

    def runs(self, measured: Mapping[str, memory.Measurement]) -> list[tensorboard.Run]:
        """Makes the runs to write.

        Args:
            measured: What calls were measured to need, by run.

        Returns:
            The runs `original` and `rewritten`.
        """
        return step_runs.runs(self.report, self.view, self.graph, measured)

    def _rewrite(self, graph: Any) -> None:
        if tracing.is_nested_in(graph, self._outer):
            self.report = pipeline.rewrite_graph(graph, self._options, watch=self._watch)
        else:
            pipeline.rewrite_graph(graph, self._options)

    def _watch(self, view: GraphView) -> None:
        self._seen = view


@contextlib.contextmanager
def _restoring(variables: Sequence[tf.Variable]) -> Iterator[None]:
    """Gives variables their values back after the block."""
    before = [variable.numpy() for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
