"""Element-wise ops: what they cost, how they are differentiated, in which inputs they are linear.

One line an op. A rule sees the inputs, the output and the attributes, and gives one partial
derivative an input, so that "from the output" forms (``1 - y * y`` for tanh) come naturally. The
same rule serves three purposes: forward-mode derivatives of chains, the factor of a gradient op
(its partial by the incoming cotangent, in which it is linear), and second derivatives.

The lines are in `arithmetic`, `activations` and `special`; here is what they add up to.
"""

from __future__ import annotations

from typing import Final

from nested_fad_tf.ops import activations, arithmetic, special
from nested_fad_tf.ops.entry import (
    ALL,
    Attr,
    Cost,
    Elementwise,
    Partials,
    Rule,
    linear_inputs,
    times,
)

__all__ = [
    "ALL",
    "TABLE",
    "Attr",
    "Cost",
    "Elementwise",
    "Partials",
    "Rule",
    "linear_inputs",
    "times",
]

TABLE: Final[dict[str, Elementwise]] = {
    **arithmetic.TABLE,
    **activations.TABLE,
    **special.TABLE,
}
