"""Values that are small ones spread over a large shape, such as a normalisation's scale.

`rsqrt(variance) * gamma`, with one variance a row and one gamma a column, is a full tensor made of
two small ones. Kept as those, and spread again by the op that reads it, it takes next to nothing.
"""

from __future__ import annotations

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.ops import elementwise
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.rewrite import RewriteBuilder

# How many times larger than all it is made of a value has to be.
_LEAST_RATIO = 8


def find_spread(candidates: Candidates) -> frozenset[int]:
    """Finds what the backward pass can spread again.

    Args:
        candidates: The buffers of the forward pass.

    Returns:
        Ids of the values; all that cotangent ops read of their buffers are the values themselves.
    """
    return frozenset(
        root
        for root, readers in candidates.needed.items()
        if _is_spread(candidates, candidates.view.values[root])
        and all(node.inputs[index].id == root for node, index in readers)
    )


def _is_spread(candidates: Candidates, value: Value) -> bool:
    node = value.node
    if node.op_type not in elementwise.TABLE or node.id in candidates.bans or node.stateful:
        return False
    sources = {v.storage.id: v.storage.nbytes for v in node.inputs}
    return sum(sources.values()) * _LEAST_RATIO <= value.nbytes


def spread_again(builder: RewriteBuilder, value: Value, cotangent: Value) -> Value:
    """Spreads a value a second time, when the cotangent that it is combined with is there.

    Args:
        builder: The rewrite to extend.
        value: One that `find_spread` found.
        cotangent: What the reader reads besides.

    Returns:
        The copy.
    """
    node = value.node
    outputs = [(v.dtype, v.shape) for v in node.outputs]
    copy = builder.add(node.op_type, node.inputs, outputs, origin=node, controls=[cotangent.node])
    return copy.outputs[value.index]


def redirect_readers(
    candidates: Candidates,
    spread: frozenset[int],
    replaced: frozenset[int],
    builder: RewriteBuilder,
) -> frozenset[int]:
    """Lets backward ops that read a spread value read a copy of it.

    Args:
        candidates: The buffers of the forward pass.
        spread: What `find_spread` found.
        replaced: Ids of readers that the rewrite replaces.
        builder: The rewrite to extend.

    Returns:
        Ids of the values that nothing in the backward pass reads any more.
    """
    done = set()
    for root in spread:
        value = candidates.view.values[root]
        readers = [(n, i) for n, i in candidates.needed[root] if n.id not in replaced]
        cotangents = [_cotangent(candidates, node) for node, _ in readers]
        if None in cotangents:
            continue
        for (node, index), cotangent in zip(readers, cotangents, strict=True):
            assert cotangent is not None
            builder.redirect(node, index, spread_again(builder, value, cotangent))
        done.add(root)
    return frozenset(done)


def _cotangent(candidates: Candidates, node: Node) -> Value | None:
    incoming = (v for v in node.inputs if candidates.roles.cotangent[v.node.id])
    return next(incoming, None)
