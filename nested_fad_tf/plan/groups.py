"""Which element-wise ops run as one fused op.

Fusing is contraction, and a contraction must not make a cycle: no path may leave a group and come
back. Depths guarantee it. A node's depth counts how often a path to it changes between fusible and
other nodes, between the passes or between devices, or waits for a control input; groups are fusible
nodes of equal depth that data edges connect. A path that leaves a group gets deeper and can't
return.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter

import tensorflow as tf

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.graph.roles import Roles
from nested_fad_tf.ops.compiled import COMPILED
from nested_fad_tf.options import Options
from nested_fad_tf.plan import peak
from nested_fad_tf.plan.candidates import Candidates, compares_bits
from nested_fad_tf.plan.components import Components
from nested_fad_tf.plan.peak import Lifetimes
from nested_fad_tf.plan.rewrite import Group, Rewrite
from nested_fad_tf.plan.schedule import Schedule
from nested_fad_tf.plan.wiring import Wiring

# Scalars and the like that depend on constants only are computed inside the group.
_EMBEDDED_BYTES = 256
# What one call into a compiled group must spare the step, in bytes not written and read again.
# Below that, launching costs more than fusing saves.
_LEAST_SAVED = 8 << 20
# What all groups of one kind together must spare a step to be worth a compilation (0.1 to 0.3 s on
# a CPU): about two milliseconds, so that it has paid after a hundred steps.
_LEAST_SAVED_BY_KIND = 16 << 20


def find_groups(wiring: Wiring, roles: Roles, min_bytes: int, *, choosy: bool) -> tuple[Group, ...]:
    """Finds what to fuse.

    Args:
        wiring: The graph, rewritten otherwise.
        roles: Its roles.
        min_bytes: Smaller tensors are left alone.
        choosy: Whether to leave out kinds of groups that aren't worth a compilation.

    Returns:
        The groups.
    """
    return _Grouping(wiring, roles, min_bytes).find(choosy)


def grouped(
    candidates: Candidates, rewrite: Rewrite, options: Options
) -> tuple[Rewrite, Lifetimes]:
    """Adds the groups that the options ask for, and runs the result on paper.

    Args:
        candidates: The graph, with its roles.
        rewrite: What is done to it otherwise.
        options: fuse="ops" adds none, "xla" all, "auto" those worth a compilation. A function that
            is compiled as a whole gets none either; its compiler fuses what could be fused.

    Returns:
        The rewrite with groups, and its lifetimes.
    """
    wiring = Wiring(candidates.view, rewrite)
    if candidates.view.compiled:
        alike = find_groups(wiring, candidates.roles, options.min_bytes, choosy=False)
        return rewrite, peak.run(Schedule(wiring, alike))
    groups: tuple[Group, ...] = ()
    if options.fuse != "ops":
        choosy = options.fuse == "auto"
        groups = find_groups(wiring, candidates.roles, options.min_bytes, choosy=choosy)
    return dataclasses.replace(rewrite, groups=groups), peak.run(Schedule(wiring, groups))


def unchanged(candidates: Candidates, options: Options) -> Lifetimes:
    """Runs a graph on paper as it is.

    Args:
        candidates: The graph, with its roles.
        options: What counts as small.

    Returns:
        Its lifetimes; with what its compiler fuses, if it is compiled as a whole.
    """
    if candidates.view.compiled:
        return grouped(candidates, Rewrite(), options)[1]
    return peak.simulate(candidates.view)


class _Grouping:
    def __init__(self, wiring: Wiring, roles: Roles, min_bytes: int) -> None:
        view = wiring.view
        self._cotangent = roles.cotangent
        # XLA doesn't round half precision between the ops of a group, as separate ops do. And the
        # last bits of singles show in the gradients of a double, as where Keras normalizes.
        self._precise = max(4, min((seed.dtype.size for seed in roles.seeds), default=0))
        self._wiring = wiring
        self._order = wiring.order
        self._inputs, self._controls = wiring.inputs, wiring.controls
        self._min_bytes = min_bytes
        # Function outputs are known by tensor and control outputs by op: both have to stay.
        self._returned = {v.id for v in view.outputs}
        self._returned.update(v.id for node in view.control_outputs for v in node.outputs)
        self._fusible = [wiring.live[node.id] and self._is_fusible(node) for node in wiring.nodes]
        self._late = self._find_late()
        self._constant: dict[int, bool] = {}
        self._kinds = [
            (fusible, late, node.device)
            for fusible, late, node in zip(self._fusible, self._late, wiring.nodes, strict=True)
        ]
        self._readers: dict[int, list[Node]] = {}  # of what fusible nodes compute
        self._waiters: dict[int, list[Node]] = {}  # for fusible nodes, by node id
        for node in self._order:
            for value in self._inputs[node.id]:
                if self._fusible[value.node.id]:
                    self._readers.setdefault(value.id, []).append(node)
            for other in self._controls[node.id]:
                if self._fusible[other.id]:
                    self._waiters.setdefault(other.id, []).append(node)

    def _is_fusible(self, node: Node) -> bool:
        if node.op_type not in COMPILED or node.stateful or len(node.outputs) != 1:
            return False
        if compares_bits(node):
            return False
        out = node.outputs[0]
        if out.nbytes < self._min_bytes or out.shape is None or out.id in self._returned:
            return False
        if out.storage is not out:  # multiplies by one: it costs nothing, but would in a group
            return False
        return all(_is_precise(v.dtype, self._precise) for v in (*node.inputs, out))

    def find(self, choosy: bool) -> tuple[Group, ...]:
        depths = self._depths()
        self._sink(depths)
        components = self._components(depths)
        groups = [self._group(nodes) for nodes in components if len(nodes) > 1]
        saved = {id(g): self._saved(g) for g in groups}
        # What is only waited for has no outputs.
        groups = [g for g in groups if g.outputs and saved[id(g)] >= _LEAST_SAVED]
        if not choosy:
            return tuple(groups)
        by_kind: Counter[object] = Counter()
        for group in groups:
            by_kind[_kind(group)] += saved[id(group)]
        return tuple(g for g in groups if by_kind[_kind(g)] >= _LEAST_SAVED_BY_KIND)

    def _depths(self) -> list[int]:
        depths, kinds = [0] * len(self._wiring.nodes), self._kinds
        for node in self._order:
            depth, kind = 0, kinds[node.id]
            for value in self._inputs[node.id]:
                other = value.node
                at_least = depths[other.id] + (kinds[other.id] != kind)
                if at_least > depth:
                    depth = at_least
            for other in self._controls[node.id]:
                depth = max(depth, depths[other.id] + 1)
            depths[node.id] = depth
        return depths

    def _before(self, node: Node) -> list[Node]:
        """What a node reads and waits for."""
        before = [v.node for v in self._inputs[node.id]]
        before += self._controls[node.id]
        return before

    def _sink(self, depths: list[int]) -> None:
        """Moves fusible ops down to the readers in the same pass that they could be fused with.

        A recomputed factor may start a little later than the cotangent it is combined with, and the
        shortcut of a residual block is added at its end. Forward ops stay if more would have to
        wait for them than they compute.
        """
        for node in reversed(self._order):
            if not self._fusible[node.id] or not (self._late[node.id] or self._reads_no_more(node)):
                continue
            kind = self._kinds[node.id]
            readers = self._readers.get(node.outputs[0].id, [])
            bounds = [depths[r.id] - (self._kinds[r.id] != kind) for r in readers]
            bounds += [depths[w.id] - 1 for w in self._waiters.get(node.id, ())]
            lowest = min(bounds, default=depths[node.id])
            if any(self._kinds[r.id] == kind and depths[r.id] == lowest for r in readers):
                depths[node.id] = max(depths[node.id], lowest)

    def _reads_no_more(self, node: Node) -> bool:
        """Whether what a node reads takes no more memory than what it computes."""
        large = (v.nbytes for v in set(self._inputs[node.id]) if v.nbytes >= self._min_bytes)
        return sum(large) <= node.outputs[0].nbytes

    def _find_late(self) -> list[bool]:
        """Per node id, whether it can only run in the backward pass."""
        late = [*self._cotangent, *[False] * (len(self._wiring.nodes) - len(self._cotangent))]
        for node in self._order:
            late[node.id] = late[node.id] or any(late[b.id] for b in self._before(node))
        return late

    def _components(self, depths: list[int]) -> list[list[Node]]:
        components = Components()
        fusible = [node for node in self._order if self._fusible[node.id]]
        for node in fusible:
            components.add(node.id)
        for node in fusible:
            for value in self._inputs[node.id]:
                other = value.node
                if self._fusible[other.id] and depths[other.id] == depths[node.id]:
                    components.join(node.id, other.id)
        nodes = self._wiring.nodes
        order = [node.id for node in fusible]
        return [[nodes[i] for i in group] for group in components.groups(order)]

    def _group(self, nodes: list[Node]) -> Group:
        members = {node.id for node in nodes}
        embedded: dict[int, Node] = {}
        inputs: dict[int, Value] = {}
        for node in nodes:
            for value in self._inputs[node.id]:
                if value.node.id in members:
                    continue
                if self._is_constant(value.node):
                    self._embed(value.node, embedded)
                else:
                    inputs.setdefault(value.id, value)
        outputs = tuple(
            node.outputs[0]
            for node in nodes
            if any(r.id not in members for r in self._readers.get(node.outputs[0].id, ()))
        )
        return Group(tuple(nodes), tuple(embedded.values()), tuple(inputs.values()), outputs)

    def _is_constant(self, node: Node) -> bool:
        """Whether a small node depends on constants alone."""
        known = self._constant.get(node.id)
        if known is None:
            small = len(node.outputs) == 1 and node.outputs[0].nbytes <= _EMBEDDED_BYTES
            known = small and (
                node.op_type == "Const"
                or (
                    node.op_type in COMPILED
                    and all(self._is_constant(v.node) for v in self._inputs[node.id])
                )
            )
            self._constant[node.id] = known
        return known

    def _embed(self, node: Node, embedded: dict[int, Node]) -> None:
        if node.id not in embedded:
            for value in self._inputs[node.id]:
                self._embed(value.node, embedded)
            embedded[node.id] = node

    def _saved(self, group: Group) -> int:
        """Bytes that the group neither writes nor reads again, in comparison with its ops."""
        apart = sum(
            node.outputs[0].nbytes + sum(v.nbytes for v in self._inputs[node.id])
            for node in group.nodes
        )
        fused = sum(v.nbytes for v in (*group.inputs, *group.outputs))
        return apart - fused


@functools.cache
def _is_precise(dtype: tf.DType, least: int) -> bool:
    """Whether it hardly shows in a gradient that XLA rounds in its own way inside of groups."""
    return not dtype.is_floating or dtype.size >= least


def _kind(group: Group) -> object:
    """What groups that share a compiled function have in common."""
    return (
        tuple(node.op_type for node in group.nodes),
        tuple((v.dtype, v.shape) for v in group.inputs),
    )
