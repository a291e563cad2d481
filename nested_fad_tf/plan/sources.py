"""Where derivatives come from: what they read, and when they can be computed."""

from __future__ import annotations

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.graph.roles import Role
from nested_fad_tf.ops import elementwise, views
from nested_fad_tf.ops.expr import Expr, leaves
from nested_fad_tf.plan.candidates import Candidates


def values_of(derivative: Expr) -> list[Value]:
    """The values that a derivative is computed from.

    Args:
        derivative: An expression.

    Returns:
        Its leaves.
    """
    return [v for v in leaves(derivative) if isinstance(v, Value)]


def find_factors(candidates: Candidates) -> list[bool]:
    """Finds the element-wise ops whose results nothing but the backward pass is for.

    Names don't tell: the factors that a custom gradient computes, such as that of `tf.nn.silu`, are
    in no scope of derivatives.

    Args:
        candidates: The graph, with its roles.

    Returns:
        Per node id, whether cotangents alone depend on it.
    """
    view, cotangent = candidates.view, candidates.roles.cotangent
    returned = {v.storage.id for v in view.outputs}
    factors = [False] * len(view.nodes)
    for node in reversed(view.nodes):
        if node.op_type not in elementwise.TABLE and node.op_type not in views.ALIASES:
            continue
        if cotangent[node.id] or node.stateful:
            continue
        readers = [r for out in node.outputs for r in view.live_readers(out)]
        factors[node.id] = all(v.storage.id not in returned for v in node.outputs) and all(
            cotangent[r.id] or factors[r.id] for r in readers
        )
    return factors


def find_awaited(candidates: Candidates) -> list[bool]:
    """Finds the cotangents that there is something to wait for.

    Args:
        candidates: The graph, with its roles.

    Returns:
        Per node id, whether it is a cotangent op that depends on something large of the forward
        pass or on a matrix product or the like, rather than on numbers and the seed spread out.
    """
    view, cotangent = candidates.view, candidates.roles.cotangent
    awaited = [False] * len(view.nodes)
    for node in view.nodes:
        if cotangent[node.id] and node.op_type not in views.SHAPE_ONLY:
            awaited[node.id] = not _spreads_or_scales(node) or any(
                awaited[v.node.id] if cotangent[v.node.id] else not candidates.is_free(v)
                for v in node.inputs
            )
    return awaited


def _spreads_or_scales(node: Node) -> bool:
    by_element = node.op_type in elementwise.TABLE or node.op_type in views.ALIASES
    return by_element or node.op_type in views.LAYOUT or not node.inputs


def latest_source(candidates: Candidates, factors: list[bool], derivative: Expr) -> int | None:
    """The last op of the forward pass that a derivative waits for.

    Args:
        candidates: The buffers of the forward pass.
        factors: What `find_factors` found.
        derivative: An expression over values that no cotangent goes into.

    Returns:
        Its node id, -1 if there is none; `None` if the derivative can't be computed in the forward
        pass, since more than the derivative factors in it are tied to a cotangent.
    """
    latest = -1
    stack = [v.node for v in values_of(derivative)]
    seen: set[int] = set()
    while stack:
        node = stack.pop()
        if node.id in seen:
            continue
        seen.add(node.id)
        if not node.inputs and not node.controls:
            continue  # constants: those of derivative factors come late in the graph
        late, forward = candidates.late[node.id], candidates.roles.of(node) is Role.FORWARD
        if forward and not late and not factors[node.id]:
            # What this one waits for comes before it.
            latest = max(latest, node.id)
            continue
        if not late:
            stack.extend(node.controls)
        elif node.controls and not candidates.is_tied_factor(node):
            return None
        stack.extend(v.node for v in node.inputs)
    return latest
