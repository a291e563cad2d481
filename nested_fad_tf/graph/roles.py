"""Roles: which values belong to the forward pass, which are cotangents.

A value is a *cotangent* when it depends, by data, on the seed of a gradient computation. Names
alone do not tell: backward ops of custom gradients carry no `gradient_tape` scope, sums of partial
cotangents (`AddN`) neither; and some ops in that scope, such as ``exp(-x²)`` of an exact GELU,
depend on forward values only. Those are *unclaimed*: they may be computed on either side.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Iterable

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.ops import elementwise, views

# Scopes that TensorFlow opens for derivative ops: GradientTape's, and the one of tf.gradients
# (which counts up).
_GRADIENT_SCOPE = re.compile(r"(^|/)(gradient_tape|gradients(_\d+)?)/")
# What seeds are called: the ones of GradientTape.gradient (Const, Fill or OnesLike) and grad_ys of
# tf.gradients.
_SEED_NAME = re.compile(r"(^|/)(ones(_like)?(_\d+)?|grad_ys_\d+)$")
# What a given seed can't be: it is given as a tensor of its own.
_NO_SEED = frozenset({"Const", "Shape", "ReadVariableOp"})
# Finding one takes a pass over the graph; a step with more is planned with those found so far.
_MOST_GIVEN_SEEDS = 32
# What the forward pass need not run for.
_NOT_COMPUTED = frozenset({"Const", "Shape", "ReadVariableOp"})
_SEED_OPS = frozenset({"Const", "Fill", "OnesLike", "Identity", "BroadcastTo"})


class Role(enum.Enum):
    """What a value is for."""

    FORWARD = "forward"
    COTANGENT = "cotangent"
    UNCLAIMED = "unclaimed"


@dataclasses.dataclass(frozen=True)
class Roles:
    """The roles of a graph's nodes.

    Attributes:
        cotangent: Per node id, whether it depends on a gradient seed.
        gradient_scope: Per node id, whether TensorFlow made it while differentiating, as far as its
            name tells.
        seeds: The seeds found.
    """

    cotangent: list[bool]
    gradient_scope: list[bool]
    seeds: tuple[Value, ...]

    def of(self, node: Node) -> Role:
        """The role of a traced node's outputs.

        Args:
            node: A node of the view.

        Returns:
            Its role.
        """
        if self.cotangent[node.id]:
            return Role.COTANGENT
        return Role.UNCLAIMED if self.gradient_scope[node.id] else Role.FORWARD


def begins_backward(
    view: GraphView, roles: Roles, nodes: Iterable[Node], inputs: Iterable[Value]
) -> bool:
    """Whether something combines a cotangent with what the forward pass computed.

    The first that does begins the backward pass: seeds, and what is made of them alone, may come
    much earlier.

    Args:
        view: The graph.
        roles: Its roles.
        nodes: What runs: a node, or those of a fused group. Some may be added ones.
        inputs: What it reads.

    Returns:
        Whether it does.
    """
    traced = len(view.nodes)
    return any(n.id < traced and roles.cotangent[n.id] for n in nodes) and any(
        v.node.id < traced
        and v.node.op_type not in _NOT_COMPUTED
        and v.id not in view.arguments
        and not roles.cotangent[v.node.id]
        for v in (value.storage for value in inputs)
    )


def find_roles(view: GraphView) -> Roles:
    """Finds the gradient seeds and everything that depends on them.

    Args:
        view: The view of a traced function.

    Returns:
        The roles. Without a gradient computation there are no seeds and no cotangents.
    """
    scoped = [_GRADIENT_SCOPE.search(node.name) is not None for node in view.nodes]
    seeds = list(_named_seeds(view, scoped))
    cotangent = [False] * len(view.nodes)
    _spread(view, cotangent, [v.node for v in seeds])
    for _ in range(_MOST_GIVEN_SEEDS):
        seed = _missing_seed(view, scoped, cotangent)
        if seed is None:
            break
        seeds.append(seed)
        own = _only_scoped(view, seed, scoped)
        _spread(view, cotangent, [seed.node] if own else _scoped_readers(view, seed, scoped))
    return Roles(cotangent, scoped, tuple(seeds))


def _named_seeds(view: GraphView, scoped: list[bool]) -> list[Value]:
    """Ones that TensorFlow made as a seed: called so, and read by derivative ops.

    Ones of the model's own (a causal mask, say) are read by forward ops too. Taking them for a seed
    would be harmless for correctness, but nothing behind them would be planned.
    """
    found = []
    for node in view.nodes:
        if node.op_type not in _SEED_OPS or not _SEED_NAME.search(node.name):
            continue
        # Ones inside the scope are part of some op's gradient; grad_ys have their own scope there.
        if scoped[node.id] and "grad_ys" not in node.name:
            continue
        readers = [reader for reader, _ in view.consumers[node.outputs[0].id]]
        if readers and all(scoped[r.id] for r in readers):
            found.append(node.outputs[0])
    return found


def _missing_seed(view: GraphView, scoped: list[bool], cotangent: list[bool]) -> Value | None:
    """A seed given by the user (`output_gradients`) or handed over by a custom gradient.

    Every derivative op that isn't merely a factor ends up in a gradient, and every gradient depends
    on a seed. So a derivative op whose result never meets a known cotangent shows that a seed is
    missing. Which of its inputs it is is told by elimination, the one from outside that only
    derivative ops read, or by the op's table entry, which says in what it is linear.
    """
    meets = _meets_cotangent(view, cotangent)
    dead_ends = [
        node for node in view.nodes if scoped[node.id] and not meets[node.id] and not node.stateful
    ]
    for node in dead_ends:
        for value in node.inputs if node.op_type not in views.SHAPE_ONLY else ():
            known = scoped[value.node.id] or value.node.op_type in _NO_SEED
            if not known and value.dtype.is_floating and _only_scoped(view, value, scoped):
                return value
    for node in dead_ends:
        entry = elementwise.TABLE.get(node.op_type)
        if entry is not None and node.op_type.endswith("Grad") and len(entry.linear) == 1:
            return node.inputs[entry.linear[0]]
    return None


def _meets_cotangent(view: GraphView, cotangent: list[bool]) -> list[bool]:
    meets = [False] * len(view.nodes)
    for node in reversed(view.nodes):
        meets[node.id] = cotangent[node.id] or any(
            meets[reader.id] for out in node.outputs for reader, _ in view.consumers[out.id]
        )
    return meets


def _only_scoped(view: GraphView, value: Value, scoped: list[bool]) -> bool:
    return all(scoped[reader.id] for reader, _ in view.consumers[value.id])


def _scoped_readers(view: GraphView, value: Value, scoped: list[bool]) -> list[Node]:
    return [reader for reader, _ in view.consumers[value.id] if scoped[reader.id]]


def _spread(view: GraphView, cotangent: list[bool], roots: list[Node]) -> None:
    """Marks everything that depends by data on the roots.

    Control dependencies don't count: TensorFlow ties many pure derivative factors to the incoming
    gradient that way.
    """
    stack = [node for node in roots if not cotangent[node.id]]
    for node in stack:
        cotangent[node.id] = True
    while stack:
        for out in stack.pop().outputs:
            for reader, _ in view.consumers[out.id]:
                if not cotangent[reader.id]:
                    cotangent[reader.id] = True
                    stack.append(reader)
