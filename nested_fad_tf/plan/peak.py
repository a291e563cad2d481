"""Simulated lifetimes: the peak of requested bytes over one execution of a graph.

A buffer lives from the step that allocates it to its last reader; element-wise ops write into an
input's buffer when nobody else reads it, as the kernels do. Arguments, variables and constants
lived before the step and are not counted. Of the scratch space inside kernels only that counts
which graph/scratch.py knows of.
"""

from __future__ import annotations

import dataclasses

from nested_fad_tf.graph.nodes import Value
from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.plan.rewrite import Rewrite
from nested_fad_tf.plan.schedule import Schedule, Step
from nested_fad_tf.plan.wiring import CycleError, Wiring

_NO_ALLOCATION = frozenset(
    {"Const", "ReadVariableOp", "Placeholder", "PlaceholderWithDefault", "VarHandleOp", "NoOp"}
)


@dataclasses.dataclass(frozen=True)
class Lifetimes:
    """What a simulation saw.

    Attributes:
        peak_bytes: Highest sum of live bytes, above what lived before the step.
        live_at_peak: Buffers alive then, largest first.
        timeline: Live bytes while each step runs, what it reads and writes included.
        steps: The steps in the order in which they ran.
        wiring: What they read and wait for.
    """

    peak_bytes: int
    live_at_peak: tuple[Value, ...]
    timeline: tuple[int, ...]
    steps: tuple[Step, ...] = dataclasses.field(compare=False)
    wiring: Wiring = dataclasses.field(compare=False, repr=False)

    @property
    def nodes(self) -> int:
        """How many steps ran."""
        return len(self.steps)


def simulate(view: GraphView, rewrite: Rewrite | None = None) -> Lifetimes:
    """Runs a graph on paper.

    Args:
        view: The graph.
        rewrite: What is changed before it runs.

    Returns:
        Its memory over time.

    Raises:
        CycleError: If the graph could not run to its end.
    """
    rewrite = Rewrite() if rewrite is None else rewrite
    return run(Schedule(Wiring(view, rewrite), rewrite.groups))


def run(schedule: Schedule) -> Lifetimes:
    """Runs a schedule on paper.

    Args:
        schedule: The steps of a graph.

    Returns:
        Its memory over time.

    Raises:
        CycleError: If it could not run to its end.
    """
    view = schedule.wiring.view
    order = schedule.order()
    if len(order) < len(schedule.steps):
        raise CycleError(f"{len(schedule.steps) - len(order)} steps of {view.name} never run")
    state = _Run(order, {v.storage.id for v in view.outputs})
    for index, step in enumerate(order):
        state.execute(index, step)
    return Lifetimes(
        state.peak, state.live_at_peak(), tuple(state.timeline), tuple(order), schedule.wiring
    )


class _Run:
    """The state of one execution; buffers are known by the id of the value that owns them."""

    def __init__(self, order: list[Step], pinned: set[int]) -> None:
        self.peak = 0
        self.timeline: list[int] = []
        self._peak_index = -1
        self._pinned = pinned
        self._total = 0
        self._live: dict[int, int] = {}  # buffer -> bytes
        self._born: dict[int, tuple[Value, int]] = {}
        self._died: dict[int, int] = {}
        self._reads: dict[int, int] = {}  # reads still to come
        for step in order:
            for value in step.inputs:
                root = value.storage.id
                self._reads[root] = self._reads.get(root, 0) + 1

    def execute(self, index: int, step: Step) -> None:
        taken = self._take_over(index, step, step.in_place) if step.in_place else None
        if step.node.op_type not in _NO_ALLOCATION:
            for value in step.outputs:
                if value is not taken:
                    self._live[value.id] = value.nbytes
                    self._born[value.id] = value, index
                    self._total += value.nbytes
        now = self._total + step.node.scratch
        if now > self.peak:
            self.peak, self._peak_index = now, index
        self.timeline.append(now)
        for value in step.inputs:
            root = value.storage.id
            self._reads[root] -= 1
            if not self._reads[root]:
                self._free(root, index)
        for value in step.outputs:
            if not self._reads.get(value.id):
                self._free(value.id, index)

    def _take_over(self, index: int, step: Step, out: Value) -> Value | None:
        """The output, if it gets the buffer of an input nobody else will read."""
        if out.storage is not out:
            return None
        for value in step.inputs:
            root = value.storage
            fits = root.nbytes == out.nbytes and value.dtype.size == out.dtype.size
            last = self._reads.get(root.id) == 1 and root.id not in self._pinned
            if fits and last and root.id in self._live:
                self._live[out.id] = self._live.pop(root.id)
                self._born[out.id] = out, index
                self._died[root.id] = index
                return out
        return None

    def _free(self, root: int, index: int) -> None:
        if root in self._live and root not in self._pinned:
            self._total -= self._live.pop(root)
            self._died[root] = index

    def live_at_peak(self) -> tuple[Value, ...]:
        alive = [
            value
            for value, born in self._born.values()
            if born <= self._peak_index <= self._died.get(value.id, self._peak_index)
        ]
        return tuple(sorted(alive, key=lambda v: -v.nbytes))
