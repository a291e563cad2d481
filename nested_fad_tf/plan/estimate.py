"""The peak of a plan that keeps other buffers than one that was simulated, without simulating it.

Much cheaper than another simulation, and wrong by what the difference between the plans needs while
it runs: it tells which plans are worth a simulation.
"""

from __future__ import annotations

import bisect
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.plan.peak import Lifetimes


class Estimator:
    """Estimates peaks from one simulation.

    Args:
        view: The graph.
        lifetimes: Those of the plan to start from.
        aside: What may run late there, but not in the plans whose peaks are estimated: see
            `Stages.aside`.
    """

    def __init__(self, view: GraphView, lifetimes: Lifetimes, aside: Collection[Node] = ()) -> None:
        self._values = view.values
        self._returned = {v.storage.id for v in view.outputs}
        self._timeline = np.array(lifetimes.timeline, np.int64)
        self._at: dict[int, int] = {}  # by node id
        self._reads: dict[int, list[int]] = {}  # by storage root, in order
        for position, step in enumerate(lifetimes.steps):
            for node in step.nodes:
                self._at[node.id] = position
            for value in step.inputs:
                self._reads.setdefault(value.storage.id, []).append(position)
        self._late = self._read_late(_with_what_only_they_read(view, aside))

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

        def add(nbytes: int, since: int, until: int) -> None:
            """Counts bytes that are there once something has run, until something else has."""
            if since < until:
                change[since + 1] += nbytes
                change[until + 1] -= nbytes

        for sign, moved in ((-1, resumed), (1, added)):
            for root, stage in moved.items():
                until = self._ran(stage)
                add(sign * self._values[root].nbytes, self._last_read(root, until), until)
        for value, start, end in held:
            add(value.nbytes, self._ran(start), self._ran(end))
        starts = [*resumed.values(), *(start for _, start, _ in held)]
        first = min(map(self._ran, starts), default=len(self._timeline))
        for nbytes, since, until in self._late:
            add(-nbytes, max(since, first), until - 1)
        return int((self._timeline + np.cumsum(change[:-1])).max())

    def _ran(self, node: Node) -> int:
        return self._at.get(node.id, 0)

    def _read_late(self, late: Collection[Node]) -> list[tuple[int, int, int]]:
        """What some nodes alone read late: bytes, the last time that others do, and theirs."""
        positions = {self._at[n.id] for n in late if n.id in self._at}
        read = {v.storage.id: v.storage for n in late for v in n.inputs}
        found = []
        for root in (v for v in read.values() if v.id not in self._returned):
            reads = self._reads.get(root.id, [])
            others = [p for p in reads if p not in positions]
            since = others[-1] if others else self._ran(root.node)
            if reads and since < reads[-1]:
                found.append((root.nbytes, since, reads[-1]))
        return found

    def _last_read(self, root: int, before: int) -> int:
        """When a buffer is read for the last time before something else happens."""
        made = self._ran(self._values[root].node)
        reads = self._reads.get(root, [])
        earlier = bisect.bisect_left(reads, before)
        return reads[earlier - 1] if earlier else made


def _with_what_only_they_read(view: GraphView, nodes: Collection[Node]) -> list[Node]:
    """Nodes, and all that makes something for these alone."""
    found = {n.id: n for n in nodes}
    stack = list(nodes)
    while stack:
        for before in {v.node.id: v.node for v in stack.pop().inputs}.values():
            readers = [reader for v in before.outputs for reader, _ in view.consumers[v.id]]
            if before.id not in found and all(r.id in found for r in readers):
                found[before.id] = before
                stack.append(before)
    return list(found.values())
