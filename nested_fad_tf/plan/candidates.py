"""What the backward pass needs and what could be kept instead.

Per buffer (not per tensor: a reshape shares its input's buffer and its price) this says whether it
is alive anyway, whether it may be computed again, and which cotangent ops read it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.graph.roles import Roles
from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.ops import views
from nested_fad_tf.ops.exact import exact_readers
from nested_fad_tf.plan import cost
from nested_fad_tf.plan.bits import BITS, fits
from nested_fad_tf.plan.price_files import prices_for
from nested_fad_tf.plan.prices import Prices
from nested_fad_tf.plan.storage import Format, extent_of

_ALIVE = frozenset({"Const", "ReadVariableOp", "Placeholder", "PlaceholderWithDefault"})
_SAME_BITS = "compared bit by bit with what is computed from it"


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The buffers a plan decides about.

    Attributes:
        view: The graph.
        roles: Who is forward, who is cotangent.
        free: Per value id of a storage root: whether it needs no decision, since it is alive anyway
            (an argument, a variable, a constant, an output of the function), too small to matter,
            or one number everywhere: TensorFlow leaves out most of what reads zeros or ones.
        bans: Per node id: why it may not be recomputed; absent if it may.
        needed: Storage roots that cotangent ops read, with their readers in execution order.
        late: Per node id, whether it runs in the backward pass: it depends on a cotangent by data
            or by control. Some late nodes aren't cotangents; nothing but a control input delays
            them.
        kept_today: Buffers that plain TensorFlow holds from the forward to the backward pass.
        fused: Whether groups of element-wise ops will be compiled, which changes prices.
        prices: What it takes to compute something again on the device at hand.
        formats: By storage root's value id: the format in which it is stored if it is kept, for
            those that aren't kept as they are.
        masked: Reads of cotangent ops, by node id and input, that only ask where a value lies
            between bounds, and are given no more: no decision is taken about them.
    """

    view: GraphView
    roles: Roles
    free: list[bool]
    bans: dict[int, str]
    needed: dict[int, list[tuple[Node, int]]]
    late: list[bool]
    kept_today: tuple[Value, ...]
    fused: bool
    prices: Prices
    formats: Mapping[int, Format]
    masked: Mapping[tuple[int, int], Sequence[float]] = dataclasses.field(default_factory=dict)

    def is_free(self, value: Value) -> bool:
        """Whether a value can be read in the backward pass at no price."""
        return self.free[value.storage.id]

    def stored_bytes(self, root: Value) -> int:
        """The bytes that a buffer takes if it is kept.

        Args:
            root: A storage root.

        Returns:
            The size in bytes.
        """
        format = self.formats.get(root.id)
        if format is None:
            return root.nbytes
        stored = format.stored_bytes(extent_of(root, self.view.nominal))
        assert stored is not None
        return stored

    def stored(self, kept: Iterable[Value]) -> dict[int, Format]:
        """How the buffers are stored that aren't kept as they are.

        Args:
            kept: Storage roots that are kept.

        Returns:
            Formats by value id.
        """
        return {root.id: self.formats[root.id] for root in kept if root.id in self.formats}

    def is_tied_factor(self, node: Node) -> bool:
        """Whether a node is a derivative factor that only control inputs tie to the backward pass.

        TensorFlow lets many derivative ops wait for the incoming gradient, to save memory. Such a
        control input may be dropped. One that a user gave orders effects, perhaps through several
        pure ops, and stays: so the node and what it waits for have to be pure, to wait for nothing
        else, and the node's result has to go into cotangents or other late ops.

        Args:
            node: A node of the view.

        Returns:
            Whether its control inputs may be dropped.
        """
        cotangent = self.roles.cotangent
        if not node.controls or node.stateful or cotangent[node.id] or not node.outputs:
            return False
        waits = all(
            cotangent[c.id] and not c.stateful and c.outputs and not c.controls
            for c in node.controls
        )
        readers = [r for out in node.outputs for r, _ in self.view.consumers[out.id]]
        return waits and all(self.late[r.id] and not r.stateful for r in readers)


def find_candidates(
    view: GraphView, roles: Roles, min_bytes: int, *, fused: bool, prices: Prices | None = None
) -> Candidates:
    """Prices every buffer of the forward pass.

    Args:
        view: The graph.
        roles: Its roles.
        min_bytes: Buffers below this size are left alone.
        fused: Whether groups of element-wise ops will be compiled.
        prices: What seconds and bytes cost; by default those of the device at hand.

    Returns:
        The candidates.
    """
    prices = prices or prices_for(view)
    free = _free(view, roles, min_bytes)
    bans = {
        node.id: reason
        for node in view.nodes
        if not roles.cotangent[node.id]
        and any(not free[v.storage.id] for v in node.outputs)
        and (reason := cost.recompute_ban(view, node)) is not None
    }
    bans = _exactly_read(view, roles, free) | bans
    needed: dict[int, list[tuple[Node, int]]] = {}
    for node in view.nodes:
        if not (roles.cotangent[node.id] and view.live[node.id]):
            continue
        if node.op_type in views.SHAPE_ONLY:
            continue
        for index, value in enumerate(node.inputs):
            root = value.storage
            if not roles.cotangent[root.node.id] and not free[root.id]:
                needed.setdefault(root.id, []).append((node, index))
    late = _late(view, roles)
    kept_today = _kept_today(view, late, free)
    masks = [v.id for v in view.values if v.storage is v and v.dtype.is_bool and fits(v.shape)]
    formats = dict.fromkeys(masks, BITS)
    return Candidates(view, roles, free, bans, needed, late, kept_today, fused, prices, formats)


def _exactly_read(view: GraphView, roles: Roles, free: list[bool]) -> dict[int, str]:
    """What has to be the same bits when it is read again, by node id: see `exact_readers`."""
    bans = {}
    for node in view.nodes:
        if view.live[node.id] and compares_bits(node):
            for root in (v.storage for v in node.inputs):
                if not free[root.id] and not roles.cotangent[root.node.id]:
                    bans[root.node.id] = _SAME_BITS
    return bans


def compares_bits(node: Node) -> bool:
    """Whether a node asks if two tensors have the same bits; comparing with a constant is harmless.

    Args:
        node: A node of the graph.

    Returns:
        Whether it does.
    """
    return node.op_type in exact_readers() and all(
        v.dtype.is_floating and v.node.op_type != "Const" for v in node.inputs[:2]
    )


def _late(view: GraphView, roles: Roles) -> list[bool]:
    late = list(roles.cotangent)
    for node in view.nodes:
        late[node.id] = (
            late[node.id]
            or any(late[v.node.id] for v in node.inputs)
            or any(late[c.id] for c in node.controls)
        )
    return late


def _kept_today(view: GraphView, late: list[bool], free: list[bool]) -> tuple[Value, ...]:
    """What ops that run in the backward pass read of those that ran before.

    A derivative factor that TensorFlow ties to the incoming gradient isn't kept, but what it is
    computed from is.
    """
    kept: dict[int, Value] = {}
    for node in view.nodes:
        if not (late[node.id] and view.live[node.id]) or node.op_type in views.SHAPE_ONLY:
            continue
        for value in node.inputs:
            root = value.storage
            if not late[root.node.id] and not free[root.id]:
                kept.setdefault(root.id, root)
    return tuple(kept.values())


def _free(view: GraphView, roles: Roles, min_bytes: int) -> list[bool]:
    free = [v.nbytes < min_bytes for v in view.values]
    for node in view.nodes:
        filled = node.op_type == "Fill" and node.id in view.made_of_constants
        if filled or node.op_type in _ALIVE:
            for value in node.outputs:
                free[value.id] = True
    for value in view.outputs:
        if not roles.cotangent[value.storage.node.id]:
            free[value.storage.id] = True
    return free
