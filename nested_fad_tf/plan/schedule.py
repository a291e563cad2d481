"""A graph with a rewrite applied, as steps in the order in which TensorFlow would run them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from nested_fad_tf.graph.view import GraphView, Node, Value
from nested_fad_tf.ops import elementwise, views
from nested_fad_tf.plan.rewrite import Group, Rewrite

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
        waits: Ids of the steps it waits for by control dependency alone.
        in_place: The output whose kernel takes over the buffer of an input that nobody else reads.
    """

    __slots__ = ("group", "id", "in_place", "inputs", "node", "outputs", "waits")

    def __init__(self, id: int, node: Node, inputs: Sequence[Value]) -> None:
        """A step that runs a single node."""
        self.id = id
        self.node = node
        self.group: Group | None = None
        self.inputs = inputs
        self.outputs: list[Value] = [v for v in node.outputs if v.storage is v]
        self.waits: list[int] = []
        self.in_place = _in_place(node)


class Schedule:
    """Everything that runs, after dead-code elimination.

    Attributes:
        nodes: The view's nodes, then the rewrite's; indexed by node id.
        inputs: What each of them reads, redirections applied; indexed by node id.
        controls: What each of them waits for without reading it; indexed by node id.
        live: Whether each of them runs.
        steps: What runs.
        step_of: The step that runs a node, by node id.
    """

    def __init__(self, view: GraphView, rewrite: Rewrite) -> None:
        """Applies a rewrite on paper."""
        self.nodes: list[Node] = [*view.nodes, *rewrite.nodes]
        self.inputs: list[Sequence[Value]] = [node.inputs for node in self.nodes]
        for (node_id, index), value in rewrite.redirects.items():
            inputs = list(self.inputs[node_id])
            inputs[index] = value
            self.inputs[node_id] = inputs
        self.controls: list[Sequence[Node]] = [node.controls for node in self.nodes]
        for node_id in rewrite.released:
            self.controls[node_id] = ()
        self.live = view.reachable(self.nodes, self.inputs, self.controls)
        self.steps: list[Step] = []
        self.step_of: dict[int, Step] = {}
        self._make_steps(rewrite)

    def _make_steps(self, rewrite: Rewrite) -> None:
        for node in self.nodes:
            if self.live[node.id] and node.id not in rewrite.group_of:
                step = Step(len(self.steps), node, self.inputs[node.id])
                self.steps.append(step)
                self.step_of[node.id] = step
        for group in rewrite.groups:
            self._fuse(group)
        for step in self.steps:
            members = step.group.nodes if step.group else (step.node,)
            controls = {c.id for node in members for c in self.controls[node.id]}
            waits = {self.step_of[c].id for c in controls if c in self.step_of}
            step.waits = sorted(waits - {step.id})

    def _fuse(self, group: Group) -> None:
        step = Step(len(self.steps), group.nodes[-1], group.inputs)
        step.group, step.in_place = group, None
        step.outputs = list(group.outputs)
        self.steps.append(step)
        for node in group.nodes:
            self.step_of[node.id] = step

    def order(self) -> list[Step]:
        """The steps in the order of TensorFlow's executor with one inter-op thread.

        Follows `ScheduleReady` in core/common_runtime/executor.cc: of the nodes that a node makes
        ready, cheap ones join a first-in-first-out queue; of the dear ones the last runs next if
        that queue is empty, and the others become tasks of the thread pool, whose only worker takes
        its newest first.

        Returns:
            The steps. Fewer than `steps` if there is a cycle.
        """
        waiting = [len(step.inputs) + len(step.waits) for step in self.steps]
        readers: list[list[Step]] = [[] for _ in self.steps]
        for step in self.steps:
            for value in step.inputs:
                readers[self.step_of[value.node.id].id].append(step)
            for wait in step.waits:
                readers[wait].append(step)
        tasks = deque(step for step in self.steps if not waiting[step.id])
        inline: deque[Step] = deque()
        order = []
        while tasks or inline:
            step = inline.popleft() if inline else tasks.popleft()
            order.append(step)
            dear: list[Step] = []
            for reader in readers[step.id]:
                waiting[reader.id] -= 1
                if not waiting[reader.id]:
                    (dear if _is_dear(reader) else inline).append(reader)
            if dear and not inline:
                inline.append(dear.pop())
            tasks.extendleft(dear)
        return order


def _in_place(node: Node) -> Value | None:
    if node.op_type in views.IN_PLACE:
        return node.outputs[views.IN_PLACE[node.op_type]]
    entry = elementwise.TABLE.get(node.op_type)
    if entry is None or entry.discrete or node.op_type == "Cast" or not node.outputs:
        return None
    return node.outputs[0]


def _is_dear(step: Step) -> bool:
    """Whether the executor counts a kernel as expensive: it measures; here, by what it moves."""
    if step.node.op_type in views.ALIASES:
        return False
    sizes = [v.nbytes for v in step.outputs]
    sizes += [v.nbytes for v in step.inputs]
    return max(sizes, default=0) >= _DEAR_BYTES
