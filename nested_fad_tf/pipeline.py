"""The pass, top to bottom: inline, view, roles, simplify, candidates, plan, emit, report."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from absl import logging

from nested_fad_tf.emit import edit, residuals
from nested_fad_tf.emit.hold_back import hold_back
from nested_fad_tf.emit.inline import Inliner
from nested_fad_tf.emit.outlined import Outlines
from nested_fad_tf.errors import FAILED, RewriteError
from nested_fad_tf.graph import tracing
from nested_fad_tf.graph.callers import size_in_call
from nested_fad_tf.graph.nodes import Value
from nested_fad_tf.graph.roles import Roles, find_roles
from nested_fad_tf.graph.simplify import simplify
from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.options import Options
from nested_fad_tf.plan.again import seconds_again
from nested_fad_tf.plan.candidates import find_candidates
from nested_fad_tf.plan.outside import plan_outside
from nested_fad_tf.plan.plan import Plan
from nested_fad_tf.plan.strategies import strategy_of
from nested_fad_tf.report import building
from nested_fad_tf.report.summary import Report

_NO_GRADIENT = (
    "no gradient is computed in this function; one computed outside keeps no more than it has to"
)
_GRADIENT_OF_LOOP = (
    "the gradient of a loop: what is computed again in it could run ahead for many iterations"
)
_PART = "a function called under a tape: it is planned as a part of the one that calls it"
_inliner = Inliner()
_warned: set[str] = set()

# Called with the view of a graph.
Watch = Callable[[GraphView], None]
# Called with a plan that was carried out, and what gives the tensor that holds a value now.
Applied = Callable[[Plan, Callable[[Value], tf.Tensor]], None]


def rewrite_graph(
    graph: Any,
    options: Options,
    *,
    apply: bool = True,
    outlines: Outlines | None = None,
    watch: Watch | None = None,
    applied: Applied | None = None,
) -> Report:
    """Rewrites a traced function graph in place.

    Args:
        graph: A `FuncGraph` that was just traced and not yet made into a `ConcreteFunction`.
        options: What may be done.
        apply: Whether to change the graph; otherwise the report says what would be done.
        outlines: Where to put gradients that a SavedModel is to hold.
        watch: Called with the view of the graph before it is changed.
        applied: Called when it was changed and holds its own backward pass.

    Returns:
        What was done, or why nothing was.

    Raises:
        RewriteError: If something went wrong and `options.on_error` is "raise".
    """
    start = time.perf_counter()
    try:
        with _without_garbage_collection():
            report = _rewrite(graph, options, apply, outlines, watch, applied)
    except Exception as error:
        report = _failed(graph, error, options)
    return dataclasses.replace(report, seconds=time.perf_counter() - start)


def inline_everywhere(graph: Any) -> None:
    """Lets a function be inlined wherever it is called in a graph that is rewritten.

    Args:
        graph: Its `FuncGraph`.
    """
    _inliner.defer(graph)


def _rewrite(
    graph: Any,
    options: Options,
    apply: bool,
    outlines: Outlines | None,
    watch: Watch | None,
    applied: Applied | None,
) -> Report:
    compiled, taped = tracing.is_compiled(graph), tracing.is_taped()
    if not compiled and outlines is None:
        if taped and tracing.is_part_of_another(graph):
            _inliner.defer(graph)
            return _unchanged(graph, _PART, options)
        _inliner.inline(graph)
    nominal = options.nominal_size or size_in_call(graph)
    view = GraphView.from_func_graph(graph, nominal, compiled=compiled)
    roles = find_roles(view)
    if roles.seeds and tracing.is_gradient_of_loop(graph):
        return _unchanged(graph, _GRADIENT_OF_LOOP, options)
    # What is computed again for a gradient in here would be kept, copy by copy, for one outside.
    if taped or not roles.seeds:
        outside = plan_outside(view, options)
        if watch is not None:
            watch(view)
        if apply and outside.residuals:
            residuals.apply(graph, view, outside.residuals, outlines)
            _inliner.rewritten(graph)
        reason = "" if outside.residuals else _NO_GRADIENT
        return building.from_outside_plan(view, outside, options, reason)
    simplified = simplify(view)
    plan = make_plan(view, roles, options)
    if watch is not None:
        watch(view)
    if apply:
        _warn_if_short(view, plan, options)
    if apply and plan.rewrite:
        edit.redirect(simplified)
        tensor_of = edit.apply(graph, plan.after, compiled=options.fuse != "ops")
        if not compiled:
            hold_back(graph, view, roles, plan.rewrite)
        if applied is not None:
            applied(plan, tensor_of)
        _inliner.rewritten(graph)
    return building.from_plan(view, plan, roles)


def _warn_if_short(view: GraphView, plan: Plan, options: Options) -> None:
    """Warns if a budget is not met; the note says what stands in the way."""
    limit = options.budget_bytes(plan.before.peak_bytes)
    if limit is not None and plan.after.peak_bytes > limit:
        logging.warning("nested_fad_tf: %s: %s", view.name, plan.note)


def _unchanged(graph: Any, reason: str, options: Options) -> Report:
    return building.unchanged(graph.name, reason, options.strategy, len(graph.get_operations()))


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Makes the pass twice as fast: it allocates much and leaves no cycles worth a collection.

    A full collection walks all that Keras and TensorFlow have allocated, many times during a pass.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def make_plan(view: GraphView, roles: Roles, options: Options) -> Plan:
    """Decides what to do with a graph, without touching it.

    Args:
        view: The graph.
        roles: Its roles.
        options: What may be done.

    Returns:
        The plan.
    """
    fused = options.fuse != "ops"
    candidates = find_candidates(view, roles, options.min_bytes, fused=fused)
    plan = strategy_of(options)(candidates, options)
    seconds = seconds_again(plan.rewrite, candidates.prices)
    return dataclasses.replace(plan, seconds_again=seconds)


def _failed(graph: Any, error: Exception, options: Options) -> Report:
    """Leaves the function as it was: warns once a reason, and says so in the report."""
    reason = f"{FAILED} ({type(error).__name__}: {error})"
    if options.on_error == "raise":
        raise RewriteError(f"{graph.name}: {reason}") from error
    if reason not in _warned:
        _warned.add(reason)
        logging.warning(
            "nested_fad_tf left the function %s as it was: %s. Please report this with the lines"
            ' below; Options(on_error="raise") makes it an error.\n%s',
            graph.name,
            reason,
            traceback.format_exc(),
        )
    return _unchanged(graph, reason, options)
