"""Nodes and values: what a view of a graph, and a plan for it, are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from nested_fad_tf.graph.calls import CALLS
from nested_fad_tf.graph.sizes import Shape
from nested_fad_tf.ops import views

# Marks the call of a function that does nothing but carry a cone's gradient, and says which of its
# arguments that reads: see emit/outlined.py.
OWN_GRADIENT = "_nested_fad_gradient"


class Value:
    """One output tensor of a node.

    Attributes:
        id: Position in the view's numbering of values; also the key of every side table.
        node: The node that produces it.
        index: Which of the node's outputs it is.
        dtype: Its `tf.DType`.
        shape: Static shape, `None` for an unknown dimension; `None` as a whole for an unknown rank.
        nbytes: Size in bytes, unknown dimensions taken at the view's nominal size.
        storage: The value whose buffer it shares: itself, or the root of a chain of views
            (reshapes, identities).
    """

    __slots__ = ("dtype", "id", "index", "nbytes", "node", "shape", "storage")

    def __init__(
        self, id: int, node: Node, index: int, dtype: tf.DType, shape: Shape | None, nbytes: int
    ) -> None:
        """Makes a value that owns its storage."""
        self.id = id
        self.node = node
        self.index = index
        self.dtype = dtype
        self.shape = shape
        self.nbytes = nbytes
        self.storage: Value = self

    @property
    def name(self) -> str:
        """TensorFlow's name of the tensor, such as `dense/MatMul:0`."""
        return f"{self.node.name}:{self.index}"

    @property
    def static(self) -> bool:
        """Whether every dimension is known."""
        return self.shape is not None and None not in self.shape

    def __repr__(self) -> str:
        """Shows name, dtype and shape, the way a report prints them."""
        return f"{self.name} {describe(self.dtype, self.shape)}"


class Node:
    """One operation: of the traced graph, or one that a plan wants to add.

    An op one of whose outputs is computed element by element from others of its outputs is two
    nodes with the same `op`: the second has that output alone (see `ops/parts.py`).

    Attributes:
        id: Position in the view's order. Added nodes continue the numbering.
        name: The operation's name; for an added node the name it is to get.
        op_type: TensorFlow's op type, such as `Mul`.
        inputs: The values it reads.
        controls: Nodes it waits for without reading them.
        outputs: The values it produces, which know which output of the op they are.
        device: Requested device, empty if none.
        op: The `tf.Operation` it stands for; `None` for an added node.
        origin: For an added node, the traced node it is a copy of or was derived from.
        stateful: Whether running it twice, or not at all, could be noticed.
        scratch: Bytes that it allocates for itself while it runs, as far as that is known.
    """

    __slots__ = (
        "_attrs",
        "controls",
        "device",
        "id",
        "inputs",
        "name",
        "op",
        "op_type",
        "origin",
        "outputs",
        "scratch",
        "stateful",
    )

    def __init__(
        self,
        id: int,
        name: str,
        op_type: str,
        inputs: list[Value],
        *,
        device: str = "",
        op: tf.Operation | None = None,
        origin: Node | None = None,
        attrs: Mapping[str, Any] | None = None,
        stateful: bool = False,
    ) -> None:
        """Makes a node without outputs or control inputs; the view adds those."""
        self.id = id
        self.name = name
        self.op_type = op_type
        self.inputs = inputs
        self.controls: list[Node] = []
        self.outputs: list[Value] = []
        self.device = device
        self.op = op
        self.origin = origin
        self.stateful = stateful
        self.scratch = 0
        self._attrs = attrs

    def attr(self, name: str) -> Any:
        """Reads one attribute as a Python value.

        Args:
            name: The attribute's name.

        Returns:
            What `tf.Operation.get_attr` gives; for an added node what it was made with, or what
            the node gives that it is a copy of. `None` if there is none.
        """
        if self._attrs is not None:
            return self._attrs.get(name)
        if self.op is None:
            return None if self.origin is None else self.origin.attr(name)
        try:
            return self.op.get_attr(name)
        except ValueError:
            return None

    @property
    def attrs(self) -> Mapping[str, Any] | None:
        """The attributes an added node was made with; `None` if it has those of an op."""
        return self._attrs

    @property
    def traced(self) -> Node:
        """The node of the traced graph: its `origin`, or itself."""
        return self.origin or self

    def __repr__(self) -> str:
        """Shows the name and the op type."""
        return f"{self.name} ({self.op_type})"


def describe(dtype: tf.DType, shape: Shape | None) -> str:
    """Formats a dtype and a shape as `float32[8,128,?]`.

    Args:
        dtype: The dtype.
        shape: The static shape, `None` for an unknown rank.

    Returns:
        The text.
    """
    if shape is None:
        return f"{dtype.name}[...]"
    return f"{dtype.name}[{','.join('?' if d is None else str(d) for d in shape)}]"


def aliased_input(node: Node, index: int) -> Value | None:
    """The input whose buffer an output is, if it is a mere view.

    Args:
        node: A node whose inputs are set.
        index: Which output.

    Returns:
        The input, or `None` if the output has a buffer of its own.
    """
    if node.op_type in views.PAIRWISE_ALIASES:
        return node.inputs[index]
    if index == 0 and node.inputs and (node.op_type in views.ALIASES or _hands_on(node)):
        return node.inputs[0]
    return None


def _hands_on(node: Node) -> bool:
    """Whether a call gives back its first argument, with another gradient."""
    return node.op_type in CALLS and node.attr(OWN_GRADIENT) is not None
