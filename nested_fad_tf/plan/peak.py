"""Simulated lifetimes: the peak of requested bytes over one execution of a graph.

The order is that of TensorFlow's executor with one inter-op thread: a queue of ready nodes, first in
first out. A buffer lives from the node that allocates it to its last reader; element-wise ops write
into an input's buffer when nobody else reads it, as the kernels do. Arguments, variables and
constants lived before the step and are not counted; scratch space inside kernels isn't either.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Sequence

from nested_fad_tf.graph.view import GraphView, Node, Value
from nested_fad_tf.ops import elementwise
from nested_fad_tf.plan.rewrite import Rewrite

_NO_ALLOCATION = frozenset(
    {"Const", "ReadVariableOp", "Placeholder", "PlaceholderWithDefault", "VarHandleOp", "NoOp"}
)


@dataclasses.dataclass(frozen=True)
class Lifetimes:
    """What a simulation saw.

    Attributes:
        peak_bytes: Highest sum of live bytes, above what lived before the step.
        live_at_peak: Buffers alive then, largest first.
        timeline: Live bytes after each executed node.
        nodes: How many nodes ran.
    """

    peak_bytes: int
    live_at_peak: tuple[Value, ...]
    timeline: tuple[int, ...]
    nodes: int


class _Schedule:
    """The graph with a rewrite applied, as index lists."""

    def __init__(self, view: GraphView, rewrite: Rewrite) -> None:
        self.nodes: list[Node] = [*view.nodes, *rewrite.nodes]
        self.inputs: list[Sequence[Value]] = [node.inputs for node in self.nodes]
        for (node_id, index), value in rewrite.redirects.items():
            inputs = list(self.inputs[node_id])
            inputs[index] = value
            self.inputs[node_id] = inputs
        self.live = self._reachable(view)

    def _reachable(self, view: GraphView) -> list[bool]:
        """Dead-code elimination, as TensorFlow does before running a function."""
        live = [False] * len(self.nodes)
        stack = [v.node for v in view.outputs] + view.control_outputs
        stack += [n for n in view.nodes if n.stateful and n.op_type != "ReadVariableOp"]
        while stack:
            node = stack.pop()
            if live[node.id]:
                continue
            live[node.id] = True
            stack.extend(v.node for v in self.inputs[node.id])
            stack.extend(node.controls)
        return live


def simulate(view: GraphView, rewrite: Rewrite | None = None) -> Lifetimes:
    """Runs a graph on paper.

    Args:
        view: The graph.
        rewrite: What is changed before it runs.

    Returns:
        Its memory over time.
    """
    return _Run(_Schedule(view, rewrite or Rewrite()), view).result()


class _Run:
    def __init__(self, schedule: _Schedule, view: GraphView) -> None:
        self._schedule = schedule
        self._uses: dict[int, int] = {}  # storage root -> reads still to come
        self._roots: dict[int, Value] = {}
        self._live: dict[int, int] = {}  # storage root -> bytes
        self._owner: dict[int, int] = {}  # storage root -> root whose buffer it took over
        self._pinned = {v.storage.id for v in view.outputs}
        self._total = self._peak = 0
        self._at_peak: tuple[int, ...] = ()
        self._timeline: list[int] = []
        self._peak_step = -1

    def result(self) -> Lifetimes:
        order = self._order()
        for node in order:
            for value in self._schedule.inputs[node.id]:
                root = value.storage.id
                self._uses[root] = self._uses.get(root, 0) + 1
        for step, node in enumerate(order):
            self._execute(node, step)
        live = self._replay_until(order, self._peak_step)
        return Lifetimes(self._peak, live, tuple(self._timeline), len(order))

    def _order(self) -> list[Node]:
        schedule = self._schedule
        waiting = [0] * len(schedule.nodes)
        readers: list[list[Node]] = [[] for _ in schedule.nodes]
        for node in schedule.nodes:
            if not schedule.live[node.id]:
                continue
            for value in schedule.inputs[node.id]:
                readers[value.node.id].append(node)
            for control in node.controls:
                readers[control.id].append(node)
            waiting[node.id] = len(schedule.inputs[node.id]) + len(node.controls)
        ready = deque(n for n in schedule.nodes if schedule.live[n.id] and not waiting[n.id])
        order = []
        while ready:
            node = ready.popleft()
            order.append(node)
            for reader in readers[node.id]:
                waiting[reader.id] -= 1
                if not waiting[reader.id]:
                    ready.append(reader)
        return order

    def _execute(self, node: Node, step: int) -> None:
        inputs = self._schedule.inputs[node.id]
        taken = self._forwarded(node, inputs)
        if node.op_type not in _NO_ALLOCATION:
            for value in node.outputs:
                if value.storage is value and value is not taken:
                    self._live[value.id] = value.nbytes
                    self._roots[value.id] = value
                    self._total += value.nbytes
        if self._total > self._peak:
            self._peak, self._peak_step = self._total, step
        for value in inputs:
            self._release(value.storage.id)
        for value in node.outputs:
            if value.storage is value and not self._uses.get(value.id):
                self._uses[value.id] = 1
                self._release(value.id)
        self._timeline.append(self._total)

    def _forwarded(self, node: Node, inputs: Sequence[Value]) -> Value | None:
        """The output that takes over the buffer of an input nobody else will read."""
        if node.op_type not in elementwise.TABLE or not node.outputs:
            return None
        out = node.outputs[0]
        for value in inputs:
            root = value.storage
            if (
                root.nbytes == out.nbytes
                and value.dtype.size == out.dtype.size
                and self._uses.get(root.id) == 1
                and root.id in self._live
                and root.id not in self._pinned
            ):
                self._live[out.id] = self._live.pop(root.id)
                self._roots[out.id] = out
                return out
        return None

    def _release(self, root: int) -> None:
        self._uses[root] = self._uses.get(root, 0) - 1
        if self._uses[root] <= 0 and root in self._live and root not in self._pinned:
            self._total -= self._live.pop(root)

    def _replay_until(self, order: list[Node], step: int) -> tuple[Value, ...]:
        """The buffers alive at a step, from birth and death alone."""
        position = {node.id: i for i, node in enumerate(order)}
        last: dict[int, int] = {}
        for i, node in enumerate(order):
            for value in self._schedule.inputs[node.id]:
                last[value.storage.id] = i
        alive = [
            root
            for root in self._roots.values()
            if position[root.node.id] <= step
            and (last.get(root.id, -1) >= step or root.id in self._pinned)
        ]
        return tuple(sorted(alive, key=lambda v: -v.nbytes))
