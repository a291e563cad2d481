"""The neighbourhood of a chain: its ops, what they read, and who reads them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence

from nested_fad_tf.graph.nodes import Node, Value, describe
from nested_fad_tf.graph.view import GraphView

# A chain of a whole network may have hundreds of ops; what is drawn has to fit on a page.
_MOST_OPS = 18
_MOST_INPUTS = 6
_MOST_READERS = 6


@dataclasses.dataclass(frozen=True)
class Neighbour:
    """An op in or beside a chain.

    Attributes:
        name: The op.
        op_type: Its type.
        kind: "input": the chain reads it; "chain": one of its own; "derivative": added to be kept;
            "forward" or "backward": reads the chain in that pass.
        tensor: Type and shape of what it gives.
        bytes: The size of that.
        kept: "before", "after", "both" or "": whether it is kept for the backward pass.
        reads: Which of the others it reads, by position.
    """

    name: str
    op_type: str
    kind: str
    tensor: str
    bytes: int
    kept: str
    reads: tuple[int, ...]


def readers(view: GraphView, value: Value) -> Iterator[Node]:
    """Who reads a buffer, under whatever shape.

    Args:
        view: The graph.
        value: The owner of the buffer.

    Yields:
        The ops, but for those that only give the buffer another shape or name.
    """
    for node, _ in view.consumers[value.id]:
        views = [v for v in node.outputs if v.storage is value.storage]
        for other in views:
            yield from readers(view, other)
        if not views:
            yield node


def sources_of(node: Node) -> dict[int, Node]:
    """The traced ops that an added op is computed from.

    Args:
        node: An op that a plan adds.

    Returns:
        They, by id; constants left out.
    """
    found: dict[int, Node] = {}
    stack = [node]
    while stack:
        for value in stack.pop().inputs:
            source = value.storage.node
            if source.origin is not None:
                stack.append(source)
            elif source.op_type != "Const":
                found[source.id] = source
    return found


def neighbours_of(
    view: GraphView,
    nodes: Sequence[Node],
    derivatives: Sequence[Node],
    before: Collection[int],
    after: Collection[int],
    late: Sequence[bool],
) -> tuple[Neighbour, ...]:
    """Finds the neighbourhood of a chain.

    Args:
        view: The graph.
        nodes: The ops of the chain, in order.
        derivatives: Ops that are added to compute what is kept of it.
        before: Ids of the values that plain TensorFlow keeps.
        after: Ids of the values that are kept now.
        late: Per node id, whether it is part of the backward pass.

    Returns:
        Inputs, chain, readers; of a large chain the first ops only.
    """
    shown = nodes[:_MOST_OPS]
    members = {node.id for node in nodes}
    inputs = {
        v.storage.node.id: v.storage.node
        for node in shown
        for v in node.inputs
        if v.storage.node.id not in members and v.storage.node.op_type != "Const"
    }
    large = sorted(inputs.values(), key=lambda n: -_size(n))[:_MOST_INPUTS]
    outside = {
        reader.id: reader
        for node in shown
        for reader in readers(view, node.outputs[0])
        if reader.id not in members and view.live[reader.id]
    }
    forward = [n for n in outside.values() if not late[n.id]][:_MOST_READERS]
    backward = [n for n in outside.values() if late[n.id]][:_MOST_READERS]
    kinds = {
        "input": large,
        "chain": shown,
        "derivative": derivatives[:_MOST_READERS],
        "forward": forward,
        "backward": backward,
    }
    position = {n.id: i for i, n in enumerate(n for group in kinds.values() for n in group)}

    def neighbour(node: Node, kind: str) -> Neighbour:
        out = node.outputs[0] if node.outputs else None
        id = None if out is None else out.storage.id
        sources = [v.storage.node.id for v in node.inputs]
        if kind == "derivative":
            sources = list(sources_of(node))
        # What readers and inputs have to do with each other is not the chain's affair.
        drawn = [s for s in sources if s in members or kind in ("chain", "derivative")]
        return Neighbour(
            name=node.name,
            op_type=node.op_type,
            kind=kind,
            tensor="" if out is None else describe(out.dtype, out.shape),
            bytes=_size(node),
            kept=_KEPT[id in before, id in after],
            reads=tuple(position[s] for s in dict.fromkeys(drawn) if s in position),
        )

    return tuple(neighbour(node, kind) for kind, group in kinds.items() for node in group)


_KEPT = {
    (False, False): "", (True, False): "before", (False, True): "after", (True, True): "both",
}  # fmt: skip


def _size(node: Node) -> int:
    return sum(v.nbytes for v in node.outputs)
