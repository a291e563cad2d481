"""The peak of a plan that keeps other buffers than one that was simulated, without simulating it.

Much cheaper than another simulation, and wrong by what the difference between the plans needs while
it runs: it tells which plans are worth a simulation.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence

import numpy as np

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.plan.peak import Lifetimes


class Estimator:
    """Estimates peaks from one simulation.

    Args:
        view: The graph.
        lifetimes: Those of the plan to start from.
    """

    def __init__(self, view: GraphView, lifetimes: Lifetimes) -> None:
        self._values = view.values
        self._timeline = np.array(lifetimes.timeline, np.int64)
        self._at: dict[int, int] = {}  # by node id
        self._reads: dict[int, list[int]] = {}  # by storage root, in order
        for position, step in enumerate(lifetimes.steps):
            for node in step.nodes:
                self._at[node.id] = position
            for value in step.inputs:
                self._reads.setdefault(value.storage.id, []).append(position)

    def peak(
        self,
        resumed: Mapping[int, Node],
        added: Mapping[int, Node],
        held: Sequence[tuple[Value, Node, Node]] = (),
    ) -> int:
        """Estimates the peak of a plan.

        Args:
            resumed: By storage root: what the plan does not keep, and the cotangent op at which it
                is computed again.
            added: By storage root: what it keeps besides, and the cotangent op at which that is
                read for the last time.
            held: What it computes again ahead of time, and the cotangent ops between which that is
                there.

        Returns:
            The peak in bytes.
        """
        change = np.zeros(len(self._timeline) + 1, np.int64)
        for sign, moved in ((-1, resumed), (1, added)):
            for root, stage in moved.items():
                until = self._at.get(stage.id, 0)
                since = self._last_read(root, until)
                if since < until:
                    change[since + 1] += sign * self._values[root].nbytes
                    change[until] -= sign * self._values[root].nbytes
        for value, since_stage, until_stage in held:
            change[self._at.get(since_stage.id, 0)] += value.nbytes
            change[self._at.get(until_stage.id, 0)] -= value.nbytes
        return int((self._timeline + np.cumsum(change[:-1])).max())

    def _last_read(self, root: int, before: int) -> int:
        """When a buffer is read for the last time before something else happens."""
        made = self._at.get(self._values[root].node.id, 0)
        reads = self._reads.get(root, [])
        earlier = bisect.bisect_left(reads, before)
        return reads[earlier - 1] if earlier else made
