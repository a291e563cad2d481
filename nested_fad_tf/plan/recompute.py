"""From a cut to nodes: copies of what is recomputed, each starting just in time.

A copy belongs to a *stage* (see plan/stages.py). The copies that read kept values only are held
back until the stage's cotangent is there (see plan/gates.py); the others wait for them by data.

To be within a budget, a piece of the forward pass may run again before a row of stages, a *span*,
whose copies those stages share; some of them may be what spans within that one start from. A
stage's own copies wait for the stage all the same: they may read the span's, which are there early.

A stage also waits for the matrix products and reductions that read cotangents or copies of the
stages before. Without that the executor is free to run down the chain of cotangents first and to
leave all gradients of weights and biases, with what they read, for the end.

No cycle can come about. Order stages as their cotangents stand in the trace. Whatever depends on a
stage's copies reads copies of that or a later stage: an element-wise reader's stage is at least as
late as every cotangent it depends on that isn't made element-wise, and the other readers' results
are such cotangents. A span's copies count as its first stage's. So all edges lead to the same or a
later stage, and no stage's cotangent depends on its own copies.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.ops import parts, views
from nested_fad_tf.ops.expr import Leaf
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.cut import Cut, Span
from nested_fad_tf.plan.gates import Gates
from nested_fad_tf.plan.lower import Lowering
from nested_fad_tf.plan.maker import NodeMaker
from nested_fad_tf.plan.masks import Masks
from nested_fad_tf.plan.packing import Packing
from nested_fad_tf.plan.prompt import Prompt
from nested_fad_tf.plan.rewrite import RewriteBuilder
from nested_fad_tf.plan.stages import Stages, copy_test, read_by_copy


class _Scope:
    """Copies that belong together: those of a stage, or those that the stages of a span share.

    Attributes:
        stage: What its copies wait for: the stage, or the first one of the span.
        copies: Its copies by the id of the value that is copied.
        outer: For a stage in a span, and for a span within another: the scope of that.
    """

    def __init__(
        self,
        stage: Node,
        gates: Gates,
        copied: Callable[[Value], bool],
        outer: _Scope | None = None,
        *,
        shared: bool = False,
    ) -> None:
        self.stage = stage
        self.copies: dict[int, Value] = {}
        self.outer = outer
        self._gates = gates
        self._copied = copied
        self._shared = shared

    def hold(self, copy: Node) -> None:
        """Lets a copy wait for the stage."""
        self._gates.hold(copy, self.stage, shared=self._shared)

    def home(self, value: Value) -> _Scope | None:
        """The scope that the copy of a value belongs to; `None` if it is read as it is."""
        if self._copied(value):
            return self
        return self.outer.home(value) if self.outer is not None else None

    def read(self, value: Value) -> Value:
        """What is to be read in the place of a value, once it has been made.

        What is read for its shape alone isn't made.
        """
        home = self.home(value)
        return value if home is None else home.copies.get(value.id, value)


class Recomputation:
    """Makes copies on demand, sharing them within a scope.

    Attributes:
        builder: Where the copies go.
        masks: What is kept for reads that ask for no more.
    """

    def __init__(self, candidates: Candidates, stages: Stages, cut: Cut) -> None:
        """Prepares for one cut."""
        self.builder = RewriteBuilder(candidates.view)
        self._stages = stages
        self._cut = cut
        self._packing = Packing(self.builder, Prompt(candidates, self.builder))
        # Of what is kept as it is nobody needs a mask.
        self._wide = {root.id for root in cut.kept} - cut.stored.keys()
        self._masked = candidates.masked
        self.masks = Masks(self.builder, self._packing)
        self._needs_copy = copy_test(cut)
        self._scopes: dict[int, _Scope] = {}  # by a stage's node id
        # Of spans within each other, the innermost.
        self._spans = {id: span for span in cut.spans for id in span.stages}
        self._span_scopes: dict[int, _Scope] = {}  # by the id of a span's first stage
        self._gates = Gates(self.builder)

    def redirect_readers(self) -> None:
        """Gives every cotangent op that reads something recomputed or packed its copy."""
        nodes = self.builder.view.nodes
        for node_id, stage in self._stages.of.items():
            node, scope = nodes[node_id], self._scope_of(stage)
            for index, value in enumerate(node.inputs):
                bounds = self._masked.get((node_id, index))
                if bounds is not None:
                    if value.storage.id not in self._wide:
                        mask = self.masks.read(value, bounds, scope.hold)
                        self.builder.redirect(node, index, mask)
                elif scope.home(value) is not None:
                    self.builder.redirect(node, index, self._copy_for(value, scope))
        self._gates.close(self._stages.ends, self._stages.aside)

    def _scope_of(self, stage: Node) -> _Scope:
        if stage.id not in self._scopes:
            span = self._spans.get(stage.id)
            outer = None if span is None else self._span_scope(span)
            self._scopes[stage.id] = _Scope(stage, self._gates, self._needs_copy, outer)
        return self._scopes[stage.id]

    def _span_scope(self, span: Span) -> _Scope:
        if span.first.id not in self._span_scopes:
            again = self._cut.recomputed | span.recomputed
            copied = copy_test(dataclasses.replace(self._cut, recomputed=again))
            outer = None if span.outer is None else self._span_scope(span.outer)
            scope = _Scope(span.first, self._gates, copied, outer, shared=True)
            self._span_scopes[span.first.id] = scope
        return self._span_scopes[span.first.id]

    def _copy_for(self, value: Value, scope: _Scope) -> Value:
        """The copy of a forward value that readers in a scope share."""
        pending = [(value, scope)]
        while pending:
            top, reader = pending[-1]
            home = reader.home(top)
            if home is None or top.id in home.copies:
                pending.pop()
                continue
            missing = [
                (v, home) for v in read_by_copy(top, self._cut.stored) if _is_missing(v, home)
            ]
            if missing:
                pending.extend(missing)
                continue
            self._make(top, home)
            pending.pop()
        return scope.read(value)

    def _make(self, value: Value, scope: _Scope) -> None:
        node, copies = value.node, scope.copies
        if value.id in self._cut.stored:
            copies[value.id] = self._packing.read(value, self._cut.stored[value.id], scope.hold)
            return
        if node.op_type in views.PAIRWISE_ALIASES:
            copies[value.id] = scope.read(node.inputs[value.index])
            return
        if node.op_type in ("ZerosLike", "OnesLike"):
            copies[value.id] = self._fill(value, scope)
            return
        if node.op_type in parts.TABLE:
            copies[value.id] = self._by_formula(node, scope)
            return
        copy = self.builder.add(
            node.op_type,
            [scope.read(v) for v in node.inputs],
            [(v.dtype, v.shape) for v in node.outputs],
            origin=node,
        )
        for original, made in zip(node.outputs, copy.outputs, strict=True):
            copies[original.id] = made
        # What reads copies of the same scope waits for those.
        if all(v.id not in copies for v in node.inputs):
            scope.hold(copy)

    def _by_formula(self, node: Node, scope: _Scope) -> Value:
        """The result of a part of an op, by element-wise ops."""
        part = parts.TABLE[node.op_type]
        read = tuple(Leaf(scope.read(v)) for v in node.inputs)
        first = len(self.builder.nodes)
        lowering = Lowering(NodeMaker(self.builder, node), node.outputs[0].dtype)
        value = lowering.lower(part.formula(read, node.attr))
        made = self.builder.nodes[first:]
        for step in made:
            if step.inputs and all(v.node is not m for v in step.inputs for m in made):
                scope.hold(step)
        if part.others:
            self.builder.pin(node)
        return value

    def _fill(self, value: Value, scope: _Scope) -> Value:
        """Zeros or ones without the tensor they are like: it would be kept for its shape alone."""
        make = NodeMaker(self.builder, value.node)
        number = make.number(value.node.op_type == "OnesLike", value.dtype, "/value")
        read = [make.shape_of(value, value.node.inputs[0]), number]
        attrs = {"T": value.dtype, "index_type": tf.int32}
        filled = make.add("Fill", read, value.dtype, value.shape, "", attrs)
        scope.hold(filled.node)
        return filled


def _is_missing(value: Value, scope: _Scope) -> bool:
    home = scope.home(value)
    return home is not None and value.id not in home.copies
