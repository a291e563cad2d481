"""What keeps a stage's copies from being made before the stage.

The copies that read kept values only have nothing to wait for: an executor would make them all at
once, and a compiler would see that they are what the forward pass computed already. The executor
gets control dependencies. A compiler drops those between pure ops; it gets an optimization barrier,
through which what the copies read and the stage's cotangent pass together, as in the checkpointing
of functional AD compilers (emit/barrier.py says what becomes of it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.plan.rewrite import RewriteBuilder

# Output i is input i, once all inputs are there.
BARRIER = "XlaOptimizationBarrier"


class Gates:
    """Collects the first copies of each stage.

    Args:
        builder: Where the copies are.
    """

    def __init__(self, builder: RewriteBuilder) -> None:
        self._builder = builder
        # By node id: a stage, the copies that others of its copies may read, and those others.
        self._held: dict[int, tuple[Node, list[Node], list[Node]]] = {}

    def hold(self, copy: Node, stage: Node, *, shared: bool = False) -> None:
        """Lets a copy wait for a stage.

        Args:
            copy: A node of the rewrite that reads nothing which waits for the stage, but for what
                is shared.
            stage: The cotangent op that starts the stage.
            shared: Whether the copy is one that copies of several stages may read.
        """
        _, early, late = self._held.setdefault(stage.id, (stage, [], []))
        (early if shared else late).append(copy)

    def close(self, ends: Mapping[int, Sequence[Node]], before: Sequence[Node] = ()) -> None:
        """Adds what makes the copies wait, for their stage and the end of those before.

        Args:
            ends: By a stage's node id: what the next one waits for.
            before: What the first of the stages waits for.
        """
        waits = list(before)
        for stage_id in sorted(self._held.keys() | ends.keys()):
            if stage_id in self._held:
                stage, *batches = self._held[stage_id]
                for copies in batches:
                    for copy in copies:
                        copy.controls.extend((stage, *waits))
                    if self._builder.view.compiled:
                        self._barrier(copies, stage)
                waits = []
            waits += ends.get(stage_id, ())

    def _barrier(self, copies: Sequence[Node], stage: Node) -> None:
        """Lets the largest input of each copy through together with the stage's cotangent.

        One input is enough to tell a copy from its original. Shapes and axes are among the others,
        which the compiler has to see.
        """
        read: dict[int, Value] = {}
        for copy in copies:
            largest = max(copy.inputs, key=lambda v: v.nbytes, default=None)
            if largest is not None and largest.node.op_type != "Const":
                read[largest.id] = largest
        if not read:
            return
        inputs = [*read.values(), stage.outputs[0]]
        barrier = self._builder.add(
            BARRIER,
            inputs,
            [(v.dtype, v.shape) for v in inputs],
            origin=stage,
            suffix="/barrier",
            attrs={"T": [v.dtype for v in inputs]},
        )
        passed = dict(zip(read, barrier.outputs, strict=False))
        for copy in copies:
            copy.inputs = [passed.get(v.id, v) for v in copy.inputs]
