"""Kept buffers in narrower formats: what `Options.activations` asks for.

Activations that the backward pass reads, or computes something again from, are packed in the
forward pass and unpacked for it, as in ActNN (Chen et al., arXiv 2104.14129). The minimum cut knows
what each buffer takes so, and may keep more of them in place of computing them again. The forward
pass never reads what is unpacked: outputs, the loss and updates that are not made of gradients are
what they were; gradients are approximate.

The gradient of ReLU and its like only asks where cotangents pass, and is given that as bits. Exact
stays what is too small, no floating-point number, or computed in the backward pass; what another op
reads whose result would jump (ops/jumps.py); and what is multiplied with the seed alone: it is kept
for no time, and would spoil all gradients.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from nested_fad_tf.graph.nodes import Node
from nested_fad_tf.ops import views
from nested_fad_tf.ops.jumps import BOUNDS, jumps
from nested_fad_tf.options import Options
from nested_fad_tf.plan.candidates import Candidates, compares_bits
from nested_fad_tf.plan.formats import format_of
from nested_fad_tf.plan.sources import find_awaited
from nested_fad_tf.plan.storage import Format, extent_of

_JUMPS = "an op reads it whose result would jump if it were a little off"
_AT_ONCE = "multiplied with the derivative of the loss as soon as that is there"


def narrowed(candidates: Candidates, options: Options) -> Candidates:
    """Lets kept activations be stored with a loss.

    Args:
        candidates: The buffers of the forward pass.
        options: In which format; what is too small to bother.

    Returns:
        The same, with the format of each buffer that may be stored so. What has to stay exact is
        kept and not computed again: what it would be computed from may be off.
    """
    masked = _masked(candidates)
    exact = _read_exactly(candidates, masked)
    formats: dict[int, Format] = {}
    for root in {v.storage.id: v.storage for v in candidates.view.values}.values():
        if root.id in exact or candidates.roles.cotangent[root.node.id]:
            continue
        if not root.dtype.is_floating or candidates.free[root.id]:
            continue
        if candidates.late[root.node.id] and not candidates.is_tied_factor(root.node):
            continue
        extent = extent_of(root, candidates.view.nominal)
        format = format_of(options.activations, options.rounding, extent)
        if format is not None and root.nbytes >= options.min_bytes:
            formats[root.id] = format
    bans = {candidates.view.values[i].node.id: why for i, why in exact.items()}
    needed = {
        root: [read for read in reads if (read[0].id, read[1]) not in masked]
        for root, reads in candidates.needed.items()
    }
    return dataclasses.replace(
        candidates,
        formats={**candidates.formats, **formats},
        bans={**candidates.bans, **bans},
        needed={root: reads for root, reads in needed.items() if reads},
        masked=masked,
    )


def _masked(candidates: Candidates) -> dict[tuple[int, int], Sequence[float]]:
    """Reads that ask where a value lies, with the bounds: see `Candidates.masked`."""
    masked: dict[tuple[int, int], Sequence[float]] = {}
    for reads in candidates.needed.values():
        for node, index in reads:
            value = node.inputs[index]
            # What is known in the forward pass alone can be asked there.
            if index == 1 and node.op_type in BOUNDS and not candidates.late[value.node.id]:
                masked[node.id, index] = BOUNDS[node.op_type]
    return masked


def _read_exactly(
    candidates: Candidates, masked: Mapping[tuple[int, int], Sequence[float]]
) -> dict[int, str]:
    """Storage roots that have to be what they were, bit by bit, where they are read again; why."""
    view, cotangent = candidates.view, candidates.roles.cotangent
    awaited = find_awaited(candidates)
    exact: dict[int, str] = {}
    for node in view.nodes:
        if not view.live[node.id] or node.op_type in views.SHAPE_ONLY:
            continue
        at_once = cotangent[node.id] and not _waits(node, cotangent, awaited)
        for index, value in enumerate(node.inputs):
            root = value.storage
            if cotangent[root.node.id] or candidates.free[root.id] or (node.id, index) in masked:
                continue
            # Of a forward op that jumps it is the result that must not be computed again.
            if compares_bits(node) or (cotangent[node.id] and _jumps(node, index)):
                exact[root.id] = _JUMPS
            elif at_once:
                exact.setdefault(root.id, _AT_ONCE)
        if not cotangent[node.id] and any(_jumps(node, i) for i in range(len(node.inputs))):
            made = (v.storage.id for v in node.outputs if not candidates.free[v.storage.id])
            exact |= dict.fromkeys(made, _JUMPS)
    return exact


def _waits(node: Node, cotangent: list[bool], awaited: list[bool]) -> bool:
    """Whether a cotangent that a cotangent op reads has to be waited for."""
    return any(cotangent[v.node.id] and awaited[v.node.id] for v in node.inputs)


def _jumps(node: Node, index: int) -> bool:
    read, made = ([v.dtype for v in values] for values in (node.inputs, node.outputs))
    return jumps(node.op_type, read, made, index)
