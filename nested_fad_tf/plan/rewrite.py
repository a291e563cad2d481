"""A rewrite as a value: nodes to add and inputs to redirect.

It can be simulated, printed and compared before anything is changed; `emit/` applies it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from nested_fad_tf.graph.nodes import Node, Value, aliased_input
from nested_fad_tf.graph.sizes import Shape, output_in_bytes
from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.ops.expr import Expr

SCOPE = "nested_fad"


@dataclasses.dataclass(frozen=True)
class Group:
    """Nodes that run as one fused op.

    Attributes:
        nodes: Its nodes, in order.
        embedded: Small nodes that are computed from constants alone; the fused op computes them
            itself, so that its compiler sees the numbers.
        inputs: What it reads.
        outputs: What others read of it.
    """

    nodes: tuple[Node, ...]
    embedded: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


@dataclasses.dataclass(frozen=True)
class Restored:
    """A tensor that was stored with a loss, and comes back.

    Attributes:
        kept: What is listed as kept for it.
        exact: What was stored, an expression over values of the forward pass.
        back: What comes back.
    """

    kept: Value
    exact: Expr
    back: Value


@dataclasses.dataclass(frozen=True)
class Rewrite:
    """What is to be done to a graph.

    Attributes:
        nodes: Nodes to add, in an order in which they can be made.
        redirects: For (id of a node, index of its input): the value it is to read instead.
        groups: Nodes, traced or added, to fuse.
        released: Ids of traced nodes whose control inputs are dropped, so that they run in the
            forward pass: pure derivative factors that TensorFlow ties to the incoming gradient.
        pinned: Ids of traced nodes whose ops have to run on a CPU: their outputs mean something
            else elsewhere. They would anyway where the function was traced, but it may be saved.
        restored: What is stored with a loss.
    """

    nodes: tuple[Node, ...] = ()
    redirects: Mapping[tuple[int, int], Value] = dataclasses.field(default_factory=dict)
    groups: tuple[Group, ...] = ()
    released: frozenset[int] = frozenset()
    pinned: frozenset[int] = frozenset()
    restored: tuple[Restored, ...] = ()

    def __bool__(self) -> bool:
        """Whether it changes anything."""
        return bool(self.redirects or self.groups)

    @functools.cached_property
    def group_of(self) -> Mapping[int, Group]:
        """The group of each fused node, by node id."""
        return {node.id: group for group in self.groups for node in group.nodes}


class RewriteBuilder:
    """Collects nodes and redirections; ids continue the view's own.

    Attributes:
        view: The graph that is to be rewritten; it is only read.
        nodes: The nodes added so far.
        restored: What is stored with a loss; to be added to.
    """

    def __init__(self, view: GraphView) -> None:
        """Starts an empty rewrite."""
        self.view = view
        self.nodes: list[Node] = []
        self.restored: list[Restored] = []
        self._redirects: dict[tuple[int, int], Value] = {}
        self._released: set[int] = set()
        self._pinned: set[int] = set()
        self._next_value = len(view.values)

    def add(
        self,
        op_type: str,
        inputs: Sequence[Value],
        outputs: Sequence[tuple[tf.DType, Shape | None]],
        *,
        origin: Node,
        suffix: str = "",
        attrs: Mapping[str, Any] | None = None,
        controls: Sequence[Node] = (),
        device: str | None = None,
    ) -> Node:
        """Adds a node.

        Args:
            op_type: Its op type.
            inputs: What it reads: values of the view or of nodes added before.
            outputs: Dtype and shape of each output.
            origin: The traced node it stands for; gives the name.
            suffix: Appended to the origin's name.
            attrs: Its attributes; `None` copies the origin's.
            controls: Nodes it waits for.
            device: Where it runs; `None` for where the origin does, and so does what it reads: a
                view of something on another device is a copy of it.

        Returns:
            The node.
        """
        node = Node(
            len(self.view.nodes) + len(self.nodes),
            f"{SCOPE}/{origin.name}{suffix}",
            op_type,
            list(inputs),
            device=origin.device if device is None else device,
            origin=origin,
            attrs=attrs,
        )
        node.controls = list(controls)
        for index, (dtype, shape) in enumerate(outputs):
            nbytes = output_in_bytes(node, dtype, shape, self.view.nominal)
            value = Value(self._next_value, node, index, dtype, shape, nbytes)
            self._next_value += 1
            source = aliased_input(node, index) if device is None else None
            if source is not None:
                value.storage = source.storage
            node.outputs.append(value)
        self.nodes.append(node)
        return node

    def constant(self, array: Any, dtype: tf.DType, *, origin: Node, suffix: str) -> Value:
        """Adds a constant.

        Args:
            array: A NumPy array.
            dtype: Its dtype.
            origin: As for `add`.
            suffix: As for `add`.

        Returns:
            Its value.
        """
        attrs = {"value": array, "dtype": dtype}
        node = self.add(
            "Const", (), [(dtype, tuple(array.shape))], origin=origin, suffix=suffix, attrs=attrs
        )
        return node.outputs[0]

    def redirect(self, node: Node, index: int, value: Value) -> None:
        """Lets a node of the view read something else.

        Args:
            node: The reader.
            index: Which of its inputs.
            value: What it is to read.
        """
        self._redirects[node.id, index] = value

    def release(self, node: Node) -> None:
        """Lets a pure node of the view run as soon as its inputs are there.

        Args:
            node: The node; its control inputs are dropped.
        """
        assert not node.stateful, f"{node} has effects: its control inputs order them"
        self._released.add(node.id)

    def pin(self, part: Node) -> None:
        """Keeps an op on a CPU, with all that reads those of its outputs that a part of it reads.

        Args:
            part: A node that stands for one output of the op and reads others.
        """
        self._pinned.add(part.id)
        for value in part.inputs:
            if value.node.op is part.op:
                self._pinned.update(reader.id for reader, _ in self.view.consumers[value.id])

    def build(self) -> Rewrite:
        """The rewrite collected so far."""
        return Rewrite(
            tuple(self.nodes),
            dict(self._redirects),
            released=frozenset(self._released),
            pinned=frozenset(self._pinned),
            restored=tuple(self.restored),
        )
