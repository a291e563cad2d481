"""What is made of constants alone: it depends on no call, and waits for nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nested_fad_tf.graph.nodes import Node, Value


def made_of_constants(
    order: Iterable[Node],
    inputs: Sequence[Sequence[Value]],
    controls: Sequence[Sequence[Node]],
) -> frozenset[int]:
    """Finds the nodes that could run before anything else.

    Args:
        order: Nodes, each after what it reads.
        inputs: What each node reads, by node id.
        controls: What each node waits for, by node id.

    Returns:
        The ids of constants, and of stateless nodes that read them alone, directly or not.
    """
    found: set[int] = set()
    for node in order:
        if node.stateful or controls[node.id]:
            continue
        read = inputs[node.id]
        if node.op_type == "Const" or (read and all(v.node.id in found for v in read)):
            found.add(node.id)
    return frozenset(found)
