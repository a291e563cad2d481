"""The strategies by name. Adding one is a file beside this one and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nested_fad_tf.options import Options
from nested_fad_tf.plan import auto, forward_ad
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.plan import Plan

STRATEGIES: Mapping[str, Callable[[Candidates, Options], Plan]] = {
    "auto": auto.plan,
    "recompute": auto.plan,
    "forward_ad": forward_ad.plan,
}
