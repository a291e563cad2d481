"""How long what a rewrite computes a second time takes."""

from __future__ import annotations

from nested_fad_tf.ops import views
from nested_fad_tf.plan import cost
from nested_fad_tf.plan.prices import Prices
from nested_fad_tf.plan.rewrite import Rewrite


def seconds_again(rewrite: Rewrite, prices: Prices) -> float:
    """The time of all copies of ops.

    Args:
        rewrite: What is done to a graph.
        prices: What ops take on the device at hand.

    Returns:
        The seconds. What fusing saves, here or elsewhere, is not subtracted.
    """
    total = 0.0
    for node in rewrite.nodes:
        copied = node.origin is not None and node.op_type == node.origin.op_type
        if copied and node.outputs and node.op_type not in views.ALIASES and cost.has_price(node):
            largest = max(node.outputs, key=lambda v: v.nbytes)
            total += cost.recompute_price(node, largest, node.id in rewrite.group_of, prices)
    return total / prices.bytes_per_second
