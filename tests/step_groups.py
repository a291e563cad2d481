"""Groups of a step's ops, for tests of what they compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
from traced import view_of

from nested_fad_tf.emit.fused_op import FusedOps
from nested_fad_tf.graph.roles import find_roles
from nested_fad_tf.plan import groups
from nested_fad_tf.plan.rewrite import Group, Rewrite
from nested_fad_tf.plan.wiring import Wiring


def find_all(step: Callable[..., Any], *specs: Any) -> tuple[tuple[Group, ...], Wiring]:
    """The groups of a step, and the graph they belong to."""
    view = view_of(step, *specs)
    wiring = Wiring(view, Rewrite())
    return groups.find_groups(wiring, find_roles(view), 64, choosy=False), wiring


def find(step: Callable[..., Any], *specs: Any) -> tuple[Group, Wiring]:
    """The only group of a step whose result something reads, and the graph it belongs to."""
    (group,), wiring = find_all(lambda *args: tf.cumsum(step(*args)), *specs)
    return group, wiring


def call(
    group: Group, wiring: Wiring, *args: tf.Tensor, inside: Mapping[str, tf.Tensor] | None = None
) -> tf.Tensor:
    """The only output of a group, compiled.

    Args:
        group: The group.
        wiring: The graph that it belongs to.
        *args: Those of its step.
        inside: What it reads that the step computes, by the names of the nodes.
    """
    nodes = [node for node in wiring.view.nodes if node.op_type == "Placeholder"]
    inputs = dict(zip((node.name for node in nodes), args, strict=True)) | dict(inside or {})
    fused = FusedOps(wiring, compiled=True)
    (output,) = tf.function(lambda reads: fused.call(group, reads))(
        [inputs[value.node.name] for value in group.inputs]
    )
    return output
