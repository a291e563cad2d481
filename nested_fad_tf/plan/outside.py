"""Plans graphs that hold no backward pass: they are differentiated later, from outside.

What other ops' gradients read is kept anyway, but for the results of cones that only matrix
products and convolutions read: the gradients of those may be given a copy that is computed again.
What is to be decided is, cone by cone, what its gradient, and such a copy of its result, are
computed from: the minimum cut between the cone's inputs on one side, its derivatives and its result
on the other, over the expressions of all. What is kept may be the derivatives (nested forward-mode
AD), the input, the output, a mask, or a mixture.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from nested_fad_tf.graph.nodes import OWN_GRADIENT, Node, Value
from nested_fad_tf.graph.sizes import Shape, size_in_bytes
from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.ops import elementwise
from nested_fad_tf.ops.compiled import COMPILED
from nested_fad_tf.ops.derive import NotDifferentiableError, derivative
from nested_fad_tf.ops.exact import exact_readers
from nested_fad_tf.ops.expr import Apply, Const, Expr, Leaf, leaves, subexpressions
from nested_fad_tf.ops.gradient_reads import GRADIENT_READS, TAKES_COPIES
from nested_fad_tf.options import Options
from nested_fad_tf.plan.cones import (
    Cone,
    find_active,
    find_cones,
    has_own_gradient,
)
from nested_fad_tf.plan.lower import broadcast
from nested_fad_tf.plan.network import SINK, SOURCE, Network
from nested_fad_tf.plan.price_files import prices_for
from nested_fad_tf.plan.prices import Prices

# A derivative has to be computed whether or not the function is ever differentiated. In "auto" it
# is kept where that saves bytes, in "forward_ad" where it takes no more.
_NEW = {"auto": 4.0, "recompute": 4.0, "forward_ad": 0.9}
# What the compiled functions of a cone must spare, in bytes not written and read again.
_LEAST_SAVED = 8 << 20


@dataclasses.dataclass(frozen=True)
class Residual:
    """What one cone's gradient is computed from.

    Attributes:
        cone: The cone.
        derivatives: The derivative for each of the cone's active inputs.
        kept: Expressions that are kept; leaves are values of the graph.
        computed: The values that the graph computes anyway, by expression.
        today: What TensorFlow keeps for this cone alone.
        sizes: What keeping each expression takes beyond what is kept anyway, in bytes.
        compiled: Whether compiled functions compute the cone's result and its gradient.
        readers: Ops outside whose gradients are given a copy of the result, computed again; the
            result itself isn't kept then.
    """

    cone: Cone
    derivatives: tuple[Expr, ...]
    kept: tuple[Expr, ...]
    computed: Mapping[Expr, Value]
    today: tuple[Value, ...]
    sizes: tuple[int, ...]
    compiled: bool
    readers: tuple[Node, ...] = ()

    @property
    def bytes_before(self) -> int:
        """The bytes that TensorFlow keeps for this cone alone."""
        return sum(v.nbytes for v in self.today)

    @property
    def values(self) -> tuple[Value, ...]:
        """Those of the kept expressions that the graph computes anyway, as values."""
        return tuple(self.computed[expr] for expr in self.kept if expr in self.computed)

    @property
    def made(self) -> Mapping[Expr, str]:
        """Kept expressions that ops of its own compute, and what those ops are called.

        They are found by that: in the scope that is named after the cone's last op. The result of a
        compiled cone goes by the name of the op that it stands for.
        """
        new = [e for e in self.kept if e not in self.computed]
        names = {e: f"derivative_{number}" for number, e in enumerate(new)}
        if self.compiled:
            inner = [e for e in self.kept if e in self.computed and e is not self.cone.expr]
            again = [e for e in inner if not isinstance(e, Leaf)]
            names |= {e: f"kept_{number}" for number, e in enumerate(again)}
        return names

    @property
    def bytes_after(self) -> int:
        """The bytes that are kept for it now."""
        return sum(self.sizes)


@dataclasses.dataclass(frozen=True)
class OutsidePlan:
    """What is to be done to a graph that is differentiated from outside.

    Attributes:
        residuals: One for every cone that gets a gradient of its own.
        left_alone: Cones that keep what TensorFlow keeps, with that.
        kept_anyway: Buffers that gradients of other ops read, and that stay.
    """

    residuals: tuple[Residual, ...]
    left_alone: tuple[tuple[Cone, tuple[Value, ...]], ...]
    kept_anyway: tuple[Value, ...]


def plan_outside(view: GraphView, options: Options) -> OutsidePlan:
    """Decides what the gradient of each cone is computed from.

    Args:
        view: A graph without a backward pass.
        options: What may be done.

    Returns:
        The plan.
    """
    active, prices = find_active(view), prices_for(view)
    cones = find_cones(view, active, options.min_bytes)
    free = _free(view, options.min_bytes)
    inside = {node.id for cone in cones for node in cone.nodes}
    others = [n for n in view.nodes if n.id not in inside and active[n.id] and view.live[n.id]]
    kept = {v.id: v for node in others for v in _reads(view, node, free)}
    anyway = tuple(kept.values())
    takers = _takers(view, cones, others, free) if not view.compiled else {}
    residuals, left_alone = [], []
    for cone in cones:
        today = {v.id: v for node in cone.nodes for v in _reads(view, node, free)}
        before = tuple(v for id, v in today.items() if id not in kept)
        residual = None
        if before:
            residual = _residual(view, cone, free | kept.keys(), before, options, prices)
        if readers := takers.get(cone.output.id):
            rest = free | (kept.keys() - {cone.output.id})
            extended = (*before, cone.output)
            other = _residual(view, cone, rest, extended, options, prices, readers, residual)
            if other is not None:
                residual = other
                del kept[cone.output.id]
        if residual is None:
            left_alone.append((cone, before))
            kept.update(today)
        else:
            residuals.append(residual)
            kept.update({v.storage.id: v.storage for v in residual.values})
    spared = {r.cone.output.id for r in residuals if r.readers}
    stay = tuple(v for v in anyway if v.id not in spared)
    return OutsidePlan(tuple(residuals), tuple(left_alone), stay)


def _takers(
    view: GraphView, cones: Sequence[Cone], others: Sequence[Node], free: set[int]
) -> dict[int, tuple[Node, ...]]:
    """The ops that would take copies of a cone's result, by its id, if those alone keep it."""
    returned = {v.storage.id for v in view.outputs}
    found: dict[int, list[Node]] = {c.output.id: [] for c in cones if c.output.id not in returned}
    for node in others:
        fits = node.op_type in TAKES_COPIES and not has_own_gradient(node)
        fits = fits and node.outputs[0].id not in {v.id for v in view.outputs}
        for value in _reads(view, node, free):
            if fits and value.id in found:
                found[value.id].append(node)
            else:
                found.pop(value.id, None)
    for cone in cones:
        for value in (v for n in cone.nodes for v in _reads(view, n, free)):
            if value is not cone.output:
                found.pop(value.id, None)
    return {id: tuple(nodes) for id, nodes in found.items() if nodes}


def _free(view: GraphView, min_bytes: int) -> set[int]:
    """Storage roots that are alive anyway or too small to matter."""
    constant = ("Const", "ReadVariableOp")
    return {
        v.id
        for v in view.values
        if v.storage is v and (v.nbytes < min_bytes or v.node.op_type in constant)
    }


def _reads(view: GraphView, node: Node, free: set[int]) -> list[Value]:
    """Storage roots of what TensorFlow's gradient of a node reads."""
    found: list[Value] = []
    own = node.attr(OWN_GRADIENT)
    if own is not None:
        found = [node.inputs[i] for i in own]
    elif node.op_type in GRADIENT_READS:
        inputs, outputs = GRADIENT_READS[node.op_type]
        found = [node.inputs[i] for i in inputs] + [v for v in node.outputs if v.index in outputs]
    elif node.op_type in elementwise.TABLE and len(node.outputs) == 1:
        entry = elementwise.TABLE[node.op_type]
        if entry.partials is not None and not entry.discrete and node.op_type != "Cast":
            rule = entry.partials(tuple(map(Leaf, node.inputs)), Leaf(node.outputs[0]), node.attr)
            found = [v for d in rule if d is not None for v in leaves(d) if isinstance(v, Value)]
    roots = {v.storage.id: v.storage for v in found}
    return [v for v in roots.values() if v.id not in free]


def _residual(
    view: GraphView,
    cone: Cone,
    free: set[int],
    before: tuple[Value, ...],
    options: Options,
    prices: Prices,
    readers: tuple[Node, ...] = (),
    rival: Residual | None = None,
) -> Residual | None:
    """The least that a cone's gradient can be computed from, if that is less than today's.

    With readers, copies of its result for them are computed from it, too; that has to be cheaper
    than to keep the result and the rival, or what TensorFlow keeps.
    """
    try:
        derivatives = tuple(derivative(cone.expr, v) for v in cone.active)
    except NotDifferentiableError:
        return None
    computed: dict[Expr, Value] = {Leaf(v): v for v in cone.inputs}
    computed |= {cone.exprs[n.outputs[0].id]: n.outputs[0] for n in cone.nodes}
    pricing = _Pricing(cone, computed, free, options, prices, view.nominal)
    kept = pricing.cut((*derivatives, cone.expr) if readers else derivatives)
    sizes = tuple(map(pricing.bytes_of, kept))
    compilable = _compiles(cone, derivatives, options)
    limit: float = sum(v.nbytes for v in before)
    if readers:
        if cone.expr in kept:
            return None
        if rival is not None:
            limit = rival.bytes_after + cone.output.nbytes
        limit -= len(readers) * pricing.again(cone.expr, kept, fused=compilable)
    if sum(sizes) >= limit:
        return None
    compiled = compilable and pricing.fused((cone.expr, *derivatives))
    return Residual(cone, derivatives, kept, computed, before, sizes, compiled, readers)


def _compiles(cone: Cone, derivatives: tuple[Expr, ...], options: Options) -> bool:
    """Whether a cone may be compiled: see `plan/groups.py` for what stays out of groups."""
    half = cone.output.dtype in (tf.bfloat16, tf.half)
    parts = {
        p.op_type
        for e in (cone.expr, *derivatives)
        for p in subexpressions(e)
        if isinstance(p, Apply)
    }
    return options.fuse != "ops" and not half and parts <= COMPILED - exact_readers()


class _Pricing:
    """What it costs to keep, and to compute again, the parts of a cone's derivatives."""

    def __init__(
        self,
        cone: Cone,
        computed: Mapping[Expr, Value],
        free: set[int],
        options: Options,
        prices: Prices,
        nominal: int,
    ) -> None:
        self._prices = prices
        self._computed = computed
        self._free = free
        self._dtype = cone.output.dtype
        self._nominal = nominal
        self._new = _NEW[options.strategy]
        # "forward_ad" computes nothing again.
        self._tradeoff = {"auto": options.tradeoff, "recompute": 0.05}.get(options.strategy, 100.0)
        self._always_fused = options.fuse == "xla"
        self._shapes: dict[Expr, Shape | None] = {}

    def bytes_of(self, expr: Expr) -> int:
        """What keeping an expression takes beyond what is kept anyway."""
        value = self._computed.get(expr)
        return 0 if value is not None and value.storage.id in self._free else self.whole_bytes(expr)

    def _shape(self, expr: Expr) -> Shape | None:
        if expr not in self._shapes:
            for part in subexpressions(expr):
                if part not in self._shapes:
                    self._shapes[part] = self._own_shape(part)
        return self._shapes[expr]

    def _own_shape(self, part: Expr) -> Shape | None:
        if part in self._computed:
            return self._computed[part].shape
        args = part.args if isinstance(part, Apply) else ()
        return broadcast([self._shapes[a] for a in args])

    def cut(self, derivatives: tuple[Expr, ...]) -> tuple[Expr, ...]:
        """The expressions to keep, so that all derivatives can be computed from them."""
        network = Network()
        entry: dict[Expr, int] = {}
        leaving: dict[Expr, int] = {}
        for derived in derivatives:
            for part in subexpressions(derived):
                if part not in entry and not isinstance(part, Const):
                    self._add(part, network, entry, leaving)
            if not isinstance(derived, Const):
                network.edge(leaving[derived], SINK, np.inf)
        if not entry:
            return ()
        side = network.sink_side()
        return tuple(
            part for part, inside in entry.items() if side[leaving[part]] and not side[inside]
        )

    def _add(
        self, part: Expr, network: Network, entry: dict[Expr, int], leaving: dict[Expr, int]
    ) -> None:
        entry[part], leaving[part] = network.node(), network.node()
        new = 1.0 if part in self._computed else self._new
        network.edge(entry[part], leaving[part], max(1.0, self.bytes_of(part) * new))
        if not isinstance(part, Apply) or _compares_bits(part):
            network.edge(SOURCE, entry[part], np.inf)
            return
        network.edge(SOURCE, entry[part], max(0.5, self._tradeoff * self._recompute_price(part)))
        for arg in part.args:
            if not isinstance(arg, Const):
                network.edge(leaving[arg], entry[part], np.inf)

    def again(self, expr: Expr, kept: Sequence[Expr], *, fused: bool) -> float:
        """The price of computing an expression from what is kept."""
        pending, done = [expr], set(kept)
        total = 0.0
        while pending:
            part = pending.pop()
            if part not in done and isinstance(part, Apply):
                total += self._recompute_price(part, fused=fused)
                pending += part.args
            done.add(part)
        return self._tradeoff * total

    def fused(self, exprs: tuple[Expr, ...]) -> bool:
        """Whether a compiled function spares enough reading and writing to be worth its call."""
        if self._always_fused:
            return True
        parts = dict.fromkeys(p for e in exprs for p in subexpressions(e) if isinstance(p, Apply))
        size: dict[Expr, int] = {p: self.whole_bytes(p) for p in parts}
        apart = sum(
            size[p] + sum(self.whole_bytes(a) for a in p.args if not isinstance(a, Const))
            for p in parts
        )
        read = sum(v.nbytes for v in {v for e in exprs for v in leaves(e)} if isinstance(v, Value))
        return apart - 2 * read - sum(size.get(e, 0) for e in exprs) >= _LEAST_SAVED

    def whole_bytes(self, expr: Expr) -> int:
        """The bytes of an expression's value."""
        value = self._computed.get(expr)
        if value is not None:
            return value.nbytes
        dtype = tf.bool if _is_boolean(expr) else self._dtype
        return size_in_bytes(dtype, self._shape(expr), self._nominal)

    def _recompute_price(self, part: Apply, *, fused: bool = False) -> float:
        entry = elementwise.TABLE.get(part.op_type)
        price = entry.cost if entry else elementwise.Cost.CHEAP
        moved = self.whole_bytes(part) * (self._dtype.size if _is_boolean(part) else 1)
        return self._prices.moving(price, moved, fused=fused)


def _compares_bits(part: Apply) -> bool:
    """Whether it asks if two tensors are equal: see `ops/exact.py`."""
    return part.op_type in exact_readers() and not any(isinstance(a, Const) for a in part.args)


def _is_boolean(expr: Expr) -> bool:
    if not isinstance(expr, Apply):
        return False
    entry = elementwise.TABLE.get(expr.op_type)
    return entry is not None and entry.discrete
