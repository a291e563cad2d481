"""A graph with a rewrite applied, as steps in the order in which TensorFlow would run them."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Sequence

from nested_fad_tf.graph.constants import made_of_constants
from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.ops import elementwise, views
from nested_fad_tf.plan.rewrite import Group
from nested_fad_tf.plan.wiring import Wiring

# What is made of constants alone counts as one of them up to this size.
_SMALL_BYTES = 256
# What a kernel has to move to be worth a task of its own; about the executor's 8000 cycles.
_DEAR_BYTES = 64 * 1024


class Step:
    """One thing that runs: a node, or a fused group of nodes.

    Attributes:
        id: Position in `Schedule.steps`.
        node: The node; the last one of a group.
        group: The group, if it is one.
        inputs: What it reads, redirections applied.
        outputs: What it writes that owns a buffer; of a group, only what is read outside.
        waits: The steps it waits for by control dependency alone.
        in_place: The output whose kernel takes over the buffer of an input that nobody else reads.
    """

    __slots__ = ("group", "id", "in_place", "inputs", "node", "outputs", "waits")

    def __init__(
        self, id: int, node: Node, inputs: Sequence[Value], group: Group | None = None
    ) -> None:
        """A step that runs a node or a group."""
        self.id = id
        self.node = node
        self.group = group
        self.inputs = inputs
        self.waits: Sequence[Step] = ()
        self.outputs: Sequence[Value]
        self.in_place: Value | None
        if group is None:
            self.outputs = [v for v in node.outputs if v.storage is v]
            self.in_place = in_place(node)
        else:
            self.outputs, self.in_place = group.outputs, None

    @property
    def nodes(self) -> Sequence[Node]:
        """The nodes that it runs."""
        return (self.node,) if self.group is None else self.group.nodes


class Schedule:
    """Everything that runs, after dead-code elimination.

    Attributes:
        wiring: The edges of the graph.
        steps: What runs.
    """

    def __init__(self, wiring: Wiring, groups: Sequence[Group] = ()) -> None:
        """Makes a step of each group, and of each live node that is in none.

        Args:
            wiring: The graph with a rewrite applied.
            groups: The groups of that rewrite.
        """
        self.wiring = wiring
        self.steps: list[Step] = []
        self._step_of: list[Step | None] = [None] * len(wiring.nodes)  # by node id
        grouped = {node.id for group in groups for node in group.nodes}
        for node in wiring.nodes:
            if wiring.live[node.id] and node.id not in grouped:
                self._add(Step(len(self.steps), node, wiring.inputs[node.id]))
        for group in groups:
            self._add(Step(len(self.steps), group.nodes[-1], group.inputs, group))
        for step in self.steps:
            step.waits = self._waits(step)

    def _source(self, value: Value) -> Step:
        """The step that makes a value."""
        source = self._step_of[value.node.id]
        assert source is not None, f"{value} is read but not computed"
        return source

    def _add(self, step: Step) -> None:
        self.steps.append(step)
        for node in step.nodes:
            self._step_of[node.id] = step

    def _waits(self, step: Step) -> Sequence[Step]:
        controls = self.wiring.controls
        if step.group is None:
            waited = controls[step.node.id]
            if not waited:
                return ()
        else:
            waited = [c for node in step.group.nodes for c in controls[node.id]]
        found = {s.id: s for c in waited if (s := self._step_of[c.id]) is not None}
        found.pop(step.id, None)
        return [found[id] for id in sorted(found)]

    def order(self) -> list[Step]:
        """The steps in the order of TensorFlow's executor with one inter-op thread.

        Follows `ScheduleReady` in core/common_runtime/executor.cc: of the nodes that a node makes
        ready, cheap ones join a first-in-first-out queue; of the dear ones the last runs next if
        that queue is empty, and the others become tasks of the thread pool, whose only worker takes
        its newest first. Constants, and what is small and made of them alone, are there before
        anything else runs. What is large and made of them, such as zeros, ones, and the gradient of
        a mean, is mostly folded or optimized away: it is taken to run just before its first reader.

        Returns:
            The steps. Fewer than `steps` if there is a cycle.
        """
        early, lazy = self._made_of_constants()
        apart = frozenset([*early, *lazy])
        readers = self._readers()
        waiting = [len(step.inputs) + len(step.waits) for step in self.steps]
        for id in apart:
            for reader in readers[id]:
                waiting[reader.id] -= 1
        reads_postponed = {reader.id for id in lazy for reader in readers[id]}
        tasks = deque(s for s in self.steps if not waiting[s.id] and s.id not in apart)
        inline: deque[Step] = deque()
        order: list[Step] = [*early.values()]
        while tasks or inline:
            step = inline.popleft() if inline else tasks.popleft()
            if step.id in reads_postponed:
                self._append(step, lazy, order)
            else:
                order.append(step)
            dear: list[Step] = []
            for reader in readers[step.id]:
                waiting[reader.id] -= 1
                if not waiting[reader.id] and reader.id not in apart:
                    (dear if _is_dear(reader) else inline).append(reader)
            if dear and not inline:
                inline.append(dear.pop())
            tasks.extendleft(dear)
        while lazy:  # what nothing reads
            self._append(next(iter(lazy.values())), lazy, order)
        return order

    def _append(self, step: Step, lazy: dict[int, Step], order: list[Step]) -> None:
        """Runs a step, and before it what it reads or waits for of what was put off."""
        stack = [step]
        while stack:
            current = stack[-1]
            missing = [s for v in current.inputs if (s := self._source(v)).id in lazy]
            missing += [s for s in current.waits if s.id in lazy]
            if missing:
                stack.extend(reversed(missing))
                continue
            stack.pop()
            if lazy.pop(current.id, None) is not None or current is step:
                order.append(current)

    def _made_of_constants(self) -> tuple[dict[int, Step], dict[int, Step]]:
        """The steps that read constants alone, directly or not, by id and in order.

        Returns:
            Those that make something small from nothing large, and the others.
        """
        wiring = self.wiring
        early: dict[int, Step] = {}
        lazy: dict[int, Step] = {}
        constant = made_of_constants(wiring.order, wiring.inputs, wiring.controls)
        for node in wiring.order:
            step = self._step_of[node.id]
            if step is None or step.group is not None or node.id not in constant:
                continue
            sources = [self._source(v).id for v in step.inputs]
            if any(source not in early and source not in lazy for source in sources):
                continue  # a group computes what it reads
            large = step.inputs and any(v.nbytes > _SMALL_BYTES for v in step.outputs)
            if large or any(source in lazy for source in sources):
                lazy[step.id] = step
            else:
                early[step.id] = step
        return early, lazy

    def _readers(self) -> list[list[Step]]:
        """For each step the steps that read or wait for it, as often as they do."""
        readers: list[list[Step]] = [[] for _ in self.steps]
        for step in self.steps:
            for value in step.inputs:
                readers[self._source(value).id].append(step)
            for source in step.waits:
                readers[source.id].append(step)
        return readers


def in_place(node: Node) -> Value | None:
    """The output for which a kernel takes over the buffer of an input of the same size.

    Args:
        node: The op.

    Returns:
        The output; `None` if the kernel doesn't.
    """
    index = _in_place_output(node.op_type)
    return node.outputs[index] if index is not None and node.outputs else None


@functools.cache
def _in_place_output(op_type: str) -> int | None:
    if op_type in views.IN_PLACE:
        return views.IN_PLACE[op_type]
    entry = elementwise.TABLE.get(op_type)
    return None if entry is None or entry.discrete or op_type == "Cast" else 0


def _is_dear(step: Step) -> bool:
    """Whether the executor counts a kernel as expensive: it measures; here, by what it moves."""
    if step.node.op_type in views.ALIASES:
        return False
    for value in step.outputs:
        if value.nbytes >= _DEAR_BYTES:
            return True
    return any(value.nbytes >= _DEAR_BYTES for value in step.inputs)
