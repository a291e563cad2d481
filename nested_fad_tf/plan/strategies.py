"""The strategies by name. Adding one is a file beside this one and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nested_fad_tf.options import Options
from nested_fad_tf.plan import auto, forward_ad, lossy
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.plan import Plan

Strategy = Callable[[Candidates, Options], Plan]

STRATEGIES: Mapping[str, Strategy] = {
    "auto": auto.plan,
    "recompute": auto.plan,
    "forward_ad": forward_ad.plan,
}

# The same where what they keep may be stored with a loss.
LOSSY_STRATEGIES: Mapping[str, Strategy] = {
    "auto": lossy.plan,
    "recompute": lossy.plan,
    "forward_ad": forward_ad.plan,
}


def strategy_of(options: Options) -> Strategy:
    """The strategy that the options ask for.

    Args:
        options: The strategy's name, and what may be lossy.

    Returns:
        What makes the plan.
    """
    table = LOSSY_STRATEGIES if options.lossy else STRATEGIES
    return table[options.strategy]
