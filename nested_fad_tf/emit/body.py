"""What a fused op's function computes, op by op: with the bits that separate ops would give.

Compiled, ``a * b + c`` becomes one instruction that rounds once, and a sum keeps the order in which
it was written, where TensorFlow's graph optimizer would change it. Both change last bits, and in a
gradient that is all cancellation (of a bias before a normalization, say) the last bits are all
there is. So sums are written in the order that TensorFlow's optimizer gives them
(`AddOpsRewriteStage` of grappler's arithmetic optimizer, and its sorting of commutative inputs)
and in the batches of AddN's kernel, and apart from the products they add: LLVM contracts only a
product that nothing else reads, and a sum that asks whether its terms are numbers reads them twice.
The question takes two instructions and rounds nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2

from nested_fad_tf.emit import attributes
from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.ops import views
from nested_fad_tf.ops.compiled import EXACT, MULTIPLYING
from nested_fad_tf.plan.rewrite import Group
from nested_fad_tf.plan.wiring import Wiring

# Sums that TensorFlow's optimizer may put in another order, and all that products can be
# contracted with.
_REORDERED = frozenset({"Add", "AddN", "AddV2"})
_SUMS = _REORDERED | {"BiasAdd", "Sub"}

# What a step computes: a value's id, or a negative number for what is in between.
Key = int


@dataclasses.dataclass(frozen=True)
class Step:
    """One op of the function.

    Attributes:
        op_type: Its type.
        reads: What it reads.
        result: What it computes.
        dtype: Of its result.
        attrs: Its attributes.
        name: Of the op of the graph that it computes, or, in a scope of that name, helps to.
    """

    op_type: str
    reads: tuple[Key, ...]
    result: Key
    dtype: tf.DType
    attrs: Mapping[str, attr_value_pb2.AttrValue]
    name: str


def steps(group: Group, wiring: Wiring) -> list[Step]:
    """Writes a group out.

    Args:
        group: The group.
        wiring: The graph that it belongs to.

    Returns:
        Its ops, each behind those that it reads.
    """
    return _Body(group, wiring).write()


class _Body:
    def __init__(self, group: Group, wiring: Wiring) -> None:
        self._group = group
        self._wiring = wiring
        self._steps: list[Step] = []
        self._between = itertools.count(-1, -1)
        # With approximations in it, the bits are others anyway.
        self._exact = all(node.op_type in EXACT for node in group.nodes)
        self._products: set[Key] = set()
        self._reordered = {node.id for node in group.nodes if _is_reordered(node)}
        self._absorbed = self._find_absorbed()

    def write(self) -> list[Step]:
        for node in (*self._group.embedded, *self._group.nodes):
            if node.id in self._absorbed:
                continue
            result = node.outputs[0]
            if node.op_type in _SUMS and result.dtype.is_floating:
                self._sum(node)
            else:
                self._copy(node, [v.id for v in self._wiring.inputs[node.id]], result.id)
            if self._exact and node.op_type in MULTIPLYING:
                self._products.add(result.id)
        return self._steps

    def _find_absorbed(self) -> set[int]:
        """Ids of sums that are nothing but terms of another."""
        inputs = self._wiring.inputs
        sums = self._reordered
        if len(sums) < 2:
            return set()
        reads = Counter(v.id for node in self._group.nodes for v in inputs[node.id])
        outputs = {v.id for v in self._group.outputs}
        terms = (v for node_id in sums for v in inputs[node_id] if v.node.id in sums)
        return {
            v.node.id
            for v in terms
            if reads[v.id] == 1 and v.id not in outputs and self._is_read_once(v)
        }

    def _is_read_once(self, value: Value) -> bool:
        """Whether one op reads a value in the graph as it was traced; for a copy, its original."""
        traced = _traced(value.node)
        if traced is None:
            return False
        readers = self._wiring.view.live_readers(traced.outputs[value.index])
        if value.static:  # a constant takes the place of its shape
            readers = [r for r in readers if r.op_type not in views.SHAPE_ONLY]
        return len(readers) == 1

    def _sum(self, node: Node) -> None:
        terms = self._terms(node)
        # A bias may be added along another axis than the last.
        whole = terms[:1] if node.op_type == "BiasAdd" else terms
        products = list(dict.fromkeys(v.id for v in whole if v.id in self._products))
        result = node.outputs[0].id
        total = next(self._between) if products else result
        if len(terms) > 2 and node.id in self._reordered:
            self._add_by_shape(node, terms, total)
        elif len(terms) > 2 and node.op_type == "AddN":
            self._add_at_once(node, terms, total)
        else:
            self._copy(node, [v.id for v in terms], total)
        for product in products:
            is_nan = next(self._between)
            self._help(node, "IsNan", [product], is_nan)
            apart = result if product == products[-1] else next(self._between)
            self._help(node, "SelectV2", [is_nan, product, total], apart)
            total = apart

    def _terms(self, node: Node) -> list[Value]:
        """What a sum adds, and in place of terms that are absorbed what they add."""
        terms = []
        stack = list(reversed(self._wiring.inputs[node.id]))
        while stack:
            value = stack.pop()
            if value.node.id in self._absorbed:
                stack.extend(reversed(self._wiring.inputs[value.node.id]))
            else:
                terms.append(value)
        return terms

    def _add_by_shape(self, node: Node, terms: Sequence[Value], total: Key) -> None:
        """Adds terms of one shape in the order of their names, then the sums, smallest first."""
        ordered = sorted(terms, key=lambda v: (v.nbytes, _signature(v), _traced_name(v)))
        alike = [list(same) for _, same in itertools.groupby(ordered, key=_signature)]
        leaves = []
        for same in alike:
            if len(same) == 1:
                leaves.append(same[0].id)
                continue
            leaves.append(total if len(alike) == 1 else next(self._between))
            self._add_at_once(node, same, leaves[-1])
        self._add_up(node, leaves, total)

    def _add_at_once(self, node: Node, terms: Sequence[Value], total: Key) -> None:
        """Adds as the kernel of AddN does.

        It begins with the first term whose buffer it can take for the sum, and from the tenth on it
        adds sums of eight.
        """
        ordered = list(terms)
        for i, value in enumerate(ordered):
            if value.node.inputs and not value.node.stateful and self._is_read_once(value):
                ordered[0], ordered[i] = value, ordered[0]
                break
        keys = [v.id for v in ordered]
        first = (len(keys) - 2) % 8 + 2
        batches = [keys[:first], *(keys[i : i + 8] for i in range(first, len(keys), 8))]
        sums = [total] if len(batches) == 1 else [next(self._between) for _ in batches]
        for batch, made in zip(batches, sums, strict=True):
            self._help(node, "AddN", batch, made)
        self._add_up(node, sums, total)

    def _add_up(self, node: Node, sums: Sequence[Key], total: Key) -> None:
        """Adds one by one; a single sum is the total already."""
        partial, *rest = sums
        for i, other in enumerate(rest, start=1):
            made = total if i == len(rest) else next(self._between)
            self._help(node, "AddV2", [partial, other], made)
            partial = made

    def _copy(self, node: Node, reads: Sequence[Key], result: Key) -> None:
        """Adds the op of a node itself."""
        dtype = node.outputs[0].dtype
        attrs = {k: a for k, a in attributes.of(node).items() if not k.startswith("_")}
        self._append(node, node.op_type, reads, result, dtype, attrs)

    def _help(self, node: Node, op_type: str, reads: Sequence[Key], result: Key) -> None:
        """Adds an op that helps to compute a sum."""
        dtype = node.outputs[0].dtype
        attrs = {"T": attributes.attribute(dtype)}
        if op_type == "AddN":
            attrs["N"] = attributes.attribute(len(reads))
        self._append(node, op_type, reads, result, tf.bool if op_type == "IsNan" else dtype, attrs)

    def _append(
        self,
        node: Node,
        op_type: str,
        reads: Sequence[Key],
        result: Key,
        dtype: tf.DType,
        attrs: Mapping[str, attr_value_pb2.AttrValue],
    ) -> None:
        own = result == node.outputs[0].id
        name = node.name if own else f"{node.name}/{op_type}"
        self._steps.append(Step(op_type, tuple(reads), result, dtype, attrs, name))


def _signature(value: Value) -> tuple[int, ...]:
    return tuple(-1 if dim is None else dim for dim in value.shape or ())


def _is_reordered(node: Node) -> bool:
    """Whether TensorFlow's optimizer may put a sum in order; for a copy, its original."""
    traced = _traced(node)
    result = node.outputs[0]
    return (
        node.op_type in _REORDERED
        and traced is not None
        and not traced.controls
        and result.dtype.is_floating
        and result.shape is not None
    )


def _traced(node: Node) -> Node | None:
    """The op of the graph as it was traced that a node is, or is a copy of."""
    source = node.traced
    return source if source.op is not None and source.op_type == node.op_type else None


def _traced_name(value: Value) -> str:
    name = value.node.traced.name
    return f"{name}:{value.index}" if value.index else name
