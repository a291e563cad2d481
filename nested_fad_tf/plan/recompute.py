"""From a cut to nodes: copies of what is recomputed, each starting just in time.

A copy belongs to a *stage* (see plan/stages.py). The copies that read kept values only are held
back until the stage's cotangent is there (see plan/gates.py); the others wait for them by data.

A stage also waits for the matrix products and reductions that read cotangents or copies of the
stages before. Without that the executor is free to run down the chain of cotangents first and to
leave all gradients of weights and biases, with what they read, for the end.

No cycle can come about. Order stages as their cotangents stand in the trace. Whatever depends on a
stage's copies reads copies of that or a later stage: an element-wise reader's stage is at least as
late as every cotangent it depends on that isn't made element-wise, and the other readers' results
are such cotangents. So all edges lead to the same or a later stage, and no stage's cotangent
depends on its own copies.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.ops import parts, views
from nested_fad_tf.ops.expr import Leaf
from nested_fad_tf.plan import bits
from nested_fad_tf.plan.cut import Cut
from nested_fad_tf.plan.gates import Gates
from nested_fad_tf.plan.lower import Lowering
from nested_fad_tf.plan.rewrite import RewriteBuilder
from nested_fad_tf.plan.stages import Stages, copy_test, packed_roots, read_by_copy


class Recomputation:
    """Makes copies on demand, sharing them within a stage.

    Attributes:
        builder: Where the copies go.
    """

    def __init__(self, stages: Stages, cut: Cut, builder: RewriteBuilder) -> None:
        """Prepares for one cut."""
        self.builder = builder
        self._stages = stages
        self._needs_copy = copy_test(cut)
        self._packed = packed_roots(cut)
        self._packed_words: dict[int, tuple[bits.Steps, Value]] = {}
        self._copies: dict[int, dict[int, Value]] = {}  # stage's node id -> value id -> copy
        self._gates = Gates(builder)

    def redirect_readers(self) -> None:
        """Gives every cotangent op that reads something recomputed or packed its copy."""
        nodes = self.builder.view.nodes
        for node_id, stage in self._stages.of.items():
            node = nodes[node_id]
            for index, value in enumerate(node.inputs):
                if self._needs_copy(value):
                    self.builder.redirect(node, index, self._copy_for(value, stage))
        self._gates.close(self._stages.ends)

    def _copy_for(self, value: Value, stage: Node) -> Value:
        """The copy of a forward value that the readers in a stage share."""
        copies = self._copies.setdefault(stage.id, {})
        pending = [value]
        while pending:
            top = pending[-1]
            if top.id in copies or not self._needs_copy(top):
                pending.pop()
                continue
            read = read_by_copy(top, self._packed)
            missing = [v for v in read if v.id not in copies and self._needs_copy(v)]
            if missing:
                pending.extend(missing)
                continue
            self._make(top, stage, copies)
            pending.pop()
        return copies[value.id]

    def _make(self, value: Value, stage: Node, copies: dict[int, Value]) -> None:
        node = value.node
        if value.id in self._packed:
            copies[value.id] = self._unpack(value, stage)
            return
        if node.op_type in views.PAIRWISE_ALIASES:
            copies[value.id] = copies[node.inputs[value.index].id]
            return
        if node.op_type in ("ZerosLike", "OnesLike"):
            copies[value.id] = self._fill(value, stage)
            return
        if node.op_type in parts.TABLE:
            copies[value.id] = self._by_formula(node, stage, copies)
            return
        inputs = [copies.get(v.id, v) for v in node.inputs]
        waits = any(new is not old for new, old in zip(inputs, node.inputs, strict=True))
        copy = self.builder.add(
            node.op_type,
            inputs,
            [(v.dtype, v.shape) for v in node.outputs],
            origin=node,
        )
        for original, made in zip(node.outputs, copy.outputs, strict=True):
            copies[original.id] = made
        if not waits:
            self._gates.hold(copy, stage)

    def _by_formula(self, node: Node, stage: Node, copies: dict[int, Value]) -> Value:
        """The result of a part of an op, by element-wise ops."""
        part = parts.TABLE[node.op_type]
        read = tuple(Leaf(copies.get(v.id, v)) for v in node.inputs)
        first = len(self.builder.nodes)
        lowering = Lowering(self.builder, node.outputs[0].dtype, node, "")
        value = lowering.lower(part.formula(read, node.attr))
        made = self.builder.nodes[first:]
        for step in made:
            if step.inputs and all(v.node is not m for v in step.inputs for m in made):
                self._gates.hold(step, stage)
        if part.others:
            self.builder.pin(node)
        return value

    def _fill(self, value: Value, stage: Node) -> Value:
        """Zeros or ones without the tensor they are like: it would be kept for its shape alone."""
        node, number = value.node, 0 if value.node.op_type == "ZerosLike" else 1
        np_dtype = value.dtype.as_numpy_dtype
        fill = self.builder.constant(
            np.array(number, np_dtype), value.dtype, origin=node, suffix="/value"
        )
        made = self.builder.add(
            "Fill",
            [self._shape_of(value, node.inputs[0]), fill],
            [(value.dtype, value.shape)],
            origin=node,
            attrs={"T": value.dtype, "index_type": tf.int32},
        )
        self._gates.hold(made, stage)
        return made.outputs[0]

    def _shape_of(self, value: Value, source: Value) -> Value:
        """The shape of a value: a constant where it is known, else read in the forward pass."""
        node = value.node
        if value.static:
            dims = np.array(value.shape, np.int32)
            return self.builder.constant(dims, tf.int32, origin=node, suffix="/shape")
        rank = None if value.shape is None else len(value.shape)
        shape = self.builder.add(
            "Shape",
            [source],
            [(tf.int32, (rank,))],
            origin=node,
            suffix="/shape",
            attrs={"T": source.dtype, "out_type": tf.int32},
        )
        return shape.outputs[0]

    def _unpack(self, value: Value, stage: Node) -> Value:
        """Packs a boolean to bits right after it was made; unpacks it in the backward pass."""
        if value.id not in self._packed_words:
            count = None if not value.static else value.nbytes // 8
            steps = bits.Steps(self.builder, value.node, count)
            self._packed_words[value.id] = steps, steps.pack(value)
        steps, words = self._packed_words[value.id]
        boolean = steps.unpack(words)
        self._gates.hold(steps.first_unpacked, stage)
        return steps.reshape(boolean, self._shape_of(value, value), value.shape, "/unpack")
