"""The plan: what is kept for the backward pass, and the rewrite that brings it about."""

from __future__ import annotations

import dataclasses

from nested_fad_tf.graph.nodes import Value
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.chains import Chain, find_chains
from nested_fad_tf.plan.peak import Lifetimes
from nested_fad_tf.plan.rewrite import Rewrite

NOTHING_GAINED = "nothing to be gained: the least that can be kept is what TensorFlow keeps"
# A rewrite has to lower the peak by this fraction to be worth its risk and its time; predictions
# aren't good enough to tell less from nothing.
_LEAST_GAIN = 0.03


@dataclasses.dataclass(frozen=True)
class Keep:
    """A buffer that lives from the forward to the backward pass.

    Attributes:
        value: The buffer.
        why: Why it is kept.
        format: How it is kept: "exact", "bits" (exact, too) or the name of a lossy format.
        size: The bytes it takes so, with what belongs to it, such as scales; `None` for its own.
    """

    value: Value
    why: str
    format: str = "exact"
    size: int | None = None

    @property
    def nbytes(self) -> int:
        """The bytes it takes while it is kept."""
        return self.value.nbytes if self.size is None else self.size


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
        note: What came of the budget or of a lossy precision; empty if there is neither, or nothing
            was to be done for it.
        seconds_again: How long what is computed a second time takes; see `plan/again.py`.
    """

    strategy: str
    rewrite: Rewrite
    kept_before: tuple[Keep, ...]
    kept_after: tuple[Keep, ...]
    decisions: tuple[Decision, ...]
    before: Lifetimes
    after: Lifetimes
    reason: str = ""
    note: str = ""
    seconds_again: float = 0.0


def joined(*notes: str) -> str:
    """Several notes as one.

    Args:
        *notes: Notes; empty ones are left out.

    Returns:
        The note.
    """
    return "; ".join(note for note in notes if note)


def worthwhile(before: Lifetimes, after: Lifetimes) -> bool:
    """Whether a rewrite lowers the simulated peak by enough to be done.

    Args:
        before: Lifetimes without it.
        after: Lifetimes with it.

    Returns:
        Whether it does.
    """
    return before.peak_bytes - after.peak_bytes >= _LEAST_GAIN * before.peak_bytes


def nothing(
    candidates: Candidates,
    strategy: str,
    before: Lifetimes,
    reason: str = NOTHING_GAINED,
    *,
    note: str = "",
) -> Plan:
    """The plan that leaves everything as it is.

    Args:
        candidates: The buffers of the forward pass.
        strategy: The strategy that found nothing to gain.
        before: Lifetimes without a rewrite.
        reason: Why nothing is done.
        note: What came of the budget or of a lossy precision.

    Returns:
        The plan.
    """
    kept = tuple(Keep(v, "read by the backward pass") for v in candidates.kept_today)
    decisions = tuple(
        Decision(c, "left alone", c.kept_today, reason) for c in find_chains(candidates)
    )
    return Plan(strategy, Rewrite(), kept, kept, decisions, before, before, reason, note)
