"""From a cut to nodes: copies of what is recomputed, each starting just in time.

A copy starts when the cotangent arrives that its first reader combines it with: the copies that read
kept values only get a control dependency on that cotangent, the others wait for them by data. Had
all copies been free to start, they would all be made at once and nothing would be saved.

No cycle can come about: a copy can be placed right before its first reader in the traced order, and
its trigger, an input of that reader, stands before it.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from nested_fad_tf.graph.view import Node, Value
from nested_fad_tf.ops import views
from nested_fad_tf.plan import bits, cost
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.cut import Cut
from nested_fad_tf.plan.rewrite import RewriteBuilder


class Recomputation:
    """Makes copies on demand, sharing them between readers.

    Attributes:
        builder: Where the copies go.
    """

    def __init__(self, candidates: Candidates, cut: Cut, builder: RewriteBuilder) -> None:
        """Prepares for one cut."""
        self.builder = builder
        self._candidates = candidates
        self._recomputed = cut.recomputed
        self._packed = {v.id for v in cut.kept if cost.packs(v)}
        self._copies: dict[int, Value] = {}
        self._nodes: dict[int, Node] = {}

    def redirect_readers(self) -> None:
        """Gives every cotangent op that reads something recomputed or packed its copy."""
        cotangent = self._candidates.roles.cotangent
        for node in self._candidates.view.nodes:
            if not cotangent[node.id]:
                continue
            for index, value in enumerate(node.inputs):
                if self._needs_copy(value):
                    self.builder.redirect(node, index, self.value_for(value, self._trigger(node)))

    def _trigger(self, reader: Node) -> Node | None:
        """The last cotangent that a reader waits for."""
        cotangent = self._candidates.roles.cotangent
        producers = [v.node for v in reader.inputs if cotangent[v.node.id]]
        return max(producers, key=lambda n: n.id, default=None)

    def _needs_copy(self, value: Value) -> bool:
        root = value.storage
        return root.node.id in self._recomputed or root.id in self._packed

    def value_for(self, value: Value, trigger: Node | None) -> Value:
        """What the backward pass reads in place of a forward value.

        Args:
            value: The forward value.
            trigger: What a new copy has to wait for.

        Returns:
            The value itself if it is kept, else its copy.
        """
        pending = [value]
        while pending:
            top = pending[-1]
            if top.id in self._copies or not self._needs_copy(top):
                pending.pop()
                continue
            missing = [v for v in self._read(top) if v.id not in self._copies and self._needs_copy(v)]
            if missing:
                pending.extend(missing)
                continue
            self._make(top, trigger)
            pending.pop()
        return self._copies.get(value.id, value)

    def _read(self, value: Value) -> list[Value]:
        """The values a copy reads."""
        if value.id in self._packed or value.node.op_type in views.SHAPE_ONLY:
            return []
        return value.node.inputs

    def _make(self, value: Value, trigger: Node | None) -> None:
        if value.id in self._packed:
            self._copies[value.id] = self._unpack(value, trigger)
        elif value.node.op_type in ("ZerosLike", "OnesLike"):
            self._copies[value.id] = self._fill(value, trigger)
        else:
            copy = self._copy_node(value.node, trigger)
            for original, made in zip(value.node.outputs, copy.outputs, strict=True):
                self._copies[original.id] = made

    def _copy_node(self, node: Node, trigger: Node | None) -> Node:
        inputs = [self._copies.get(v.id, v) for v in node.inputs]
        waits = any(new is not old for new, old in zip(inputs, node.inputs, strict=True))
        return self.builder.add(
            node.op_type,
            inputs,
            [(v.dtype, v.shape) for v in node.outputs],
            origin=node,
            controls=() if waits or trigger is None else (trigger,),
        )

    def _fill(self, value: Value, trigger: Node | None) -> Value:
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
            controls=() if trigger is None else (trigger,),
        )
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

    def _unpack(self, value: Value, trigger: Node | None) -> Value:
        """Packs a boolean to bits right after it was made; unpacks it in the backward pass."""
        count = None if not value.static else value.nbytes // 8
        steps = bits.Steps(self.builder, value.node, count)
        rows = steps.pack(value)
        boolean = steps.unpack(rows, trigger)
        shape = self._shape_of(value, value)
        return steps.reshape(boolean, shape, value.shape, "/unpack")
