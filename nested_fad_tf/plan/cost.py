"""What it costs to keep a value and what it costs to compute it again.

Both are in bytes. The cut needs one currency, and memory is what it is there to save; seconds are
converted at a rate that `Options.tradeoff` scales. How many seconds an op takes, and the rate, is
what `prices.py` holds for each kind of device.
"""

from __future__ import annotations

from collections.abc import Iterable

import tensorflow as tf

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.ops import elementwise, heavy, parts, random, reductions, views
from nested_fad_tf.ops.compiled import COMPILED
from nested_fad_tf.ops.elementwise import Cost
from nested_fad_tf.plan.prices import Prices

_NOT_KNOWN = "not an element-wise or layout op"


def recompute_price(node: Node, value: Value, fused: bool, prices: Prices) -> float:
    """The price of computing a node again.

    Args:
        node: A node that `lasting_ban` allows.
        value: Its largest output.
        fused: Whether groups of element-wise ops are compiled.
        prices: What it takes on the device at hand.

    Returns:
        The price in bytes.
    """
    if node.op_type in views.SHAPE_ONLY:
        return prices.moving(Cost.CHEAP, value.nbytes, fused=False)
    if (known := heavy.TABLE.get(node.op_type)) is not None:
        return prices.working(known.kind, known.work(node.inputs, node.outputs, node.attr))
    entry = elementwise.TABLE.get(node.op_type) or parts.TABLE.get(node.op_type)
    cost = entry.cost if entry is not None else views.LAYOUT[node.op_type]
    # Narrow results of wide inputs (a comparison, a cast to bfloat16) cost what they read.
    moved = max([value.nbytes, *(v.nbytes for v in node.inputs)])
    compiled = node.op_type in COMPILED or node.op_type in parts.TABLE
    return prices.moving(cost, moved, fused=fused and compiled)


def keep_price(
    value: Value, stored: int, passes: int, fused: bool, readers: Iterable[Node], prices: Prices
) -> float:
    """The price of keeping a value.

    Args:
        value: A value of the forward pass.
        stored: The bytes it takes as it is stored.
        passes: What storing it so takes, as a number of cheap ops on it.
        fused: Whether groups of element-wise ops are compiled.
        readers: What reads it in the forward pass.
        prices: What writing takes on the device at hand.

    Returns:
        The price in bytes.
    """
    inside = value.node.op_type in COMPILED and all(r.op_type in COMPILED for r in readers)
    factor = prices.kept_by_group if fused and inside else 1.0
    work = passes * prices.moving(Cost.CHEAP, value.nbytes, fused=fused) if passes else 0.0
    return stored * factor + work


def recompute_ban(view: GraphView, node: Node) -> str | None:
    """Why a node must not be computed a second time, unless a budget asks for it.

    Args:
        view: The graph.
        node: One of its nodes.

    Returns:
        The reason, as it stands in the report; `None` if it may be recomputed.
    """
    ban = lasting_ban(view, node)
    if ban is not None or node.op_type not in heavy.TABLE:
        return ban
    if node.op_type in reductions.REDUCTIONS or node.op_type in reductions.NORMALISERS:
        return "a reduction: dear to compute, usually small to keep"
    return _NOT_KNOWN


def lasting_ban(view: GraphView, node: Node) -> str | None:
    """Why a node must not be computed a second time, whatever memory that would save.

    Args:
        view: The graph.
        node: One of its nodes.

    Returns:
        The reason; `None` if it may be recomputed.
    """
    if node.stateful:
        return "stateful: running it twice could be noticed"
    if node.op_type in random.STATELESS or node.op_type in random.STATEFUL:
        return "random numbers are drawn once"
    heavy_part = node.op_type in heavy.TABLE and not _is_whole(node)
    if not (has_price(node) or node.op_type in views.ALIASES) or heavy_part:
        return _NOT_KNOWN
    if any(v.dtype in (tf.resource, tf.variant, tf.string) for v in [*node.inputs, *node.outputs]):
        return "handles resources, variants or strings"
    return None


def has_price(node: Node) -> bool:
    """Whether `recompute_price` knows what a node takes.

    Args:
        node: A node.

    Returns:
        Whether it does.
    """
    tables = (elementwise.TABLE, parts.TABLE, views.LAYOUT, views.SHAPE_ONLY, heavy.TABLE)
    return any(node.op_type in table for table in tables)


def _is_whole(node: Node) -> bool:
    """Whether a node has all outputs of its op; a part of them can't be copied."""
    return node.op is None or len(node.outputs) == len(node.op.outputs)
