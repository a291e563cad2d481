"""The plan: what is kept for the backward pass, and the rewrite that brings it about."""

from __future__ import annotations

import dataclasses

from nested_fad_tf.graph.view import Value
from nested_fad_tf.plan import cost
from nested_fad_tf.plan.chains import Chain
from nested_fad_tf.plan.peak import Lifetimes
from nested_fad_tf.plan.rewrite import Rewrite


@dataclasses.dataclass(frozen=True)
class Keep:
    """A buffer that lives from the forward to the backward pass.

    Attributes:
        value: The buffer.
        why: Why it is kept.
        packed: Whether it is kept as bits.
    """

    value: Value
    why: str
    packed: bool = False

    @property
    def nbytes(self) -> int:
        """The bytes it takes while it is kept."""
        return cost.stored_bytes(self.value) if self.packed else self.value.nbytes


@dataclasses.dataclass(frozen=True)
class Decision:
    """What a plan does with one chain.

    Attributes:
        chain: The chain.
        action: "keep derivatives", "recompute", "keep", or "left alone".
        kept: Buffers of the chain that are kept.
        why: The reason.
    """

    chain: Chain
    action: str
    kept: tuple[Value, ...]
    why: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """A decision about a whole graph; immutable, and nothing has been changed by making it.

    Attributes:
        strategy: The strategy that made it.
        rewrite: What is to be done; empty if nothing is gained.
        kept_before: What plain TensorFlow keeps.
        kept_after: What is kept with the rewrite.
        decisions: One for every chain that plain TensorFlow keeps something of.
        before: Simulated lifetimes without the rewrite.
        after: Simulated lifetimes with it; the peak is never above `before`'s.
        reason: Why nothing is done; empty if something is.
    """

    strategy: str
    rewrite: Rewrite
    kept_before: tuple[Keep, ...]
    kept_after: tuple[Keep, ...]
    decisions: tuple[Decision, ...]
    before: Lifetimes
    after: Lifetimes
    reason: str = ""
