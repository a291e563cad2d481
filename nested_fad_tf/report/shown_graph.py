"""A function's graph as TensorBoard is to show it.

What runs is made for running: dead ops are still there, a fused group is a call of a function that
stands elsewhere, and nothing shows what lives on into the backward pass. Here dead ops are left
out, the ops of a fused group stand in a scope of their own, named after the layers they came from,
and every tensor that is kept passes through a node `kept/...`, which stands for its buffer and says
why it is kept; nobody reads that node where the gradient is computed elsewhere. What the rewrite
added is named as shown_names.py says.

Such a graph is to look at; it doesn't run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import tensorflow as tf

from nested_fad_tf.emit.fused_op import ORIGINS
from nested_fad_tf.graph.calls import CALLS
from nested_fad_tf.graph.nodes import OWN_GRADIENT, Node, Value
from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.plan.rewrite import SCOPE
from nested_fad_tf.report import shown_names
from nested_fad_tf.report.summary import Kept

# The op type of the nodes that stand for kept buffers.
KEPT_FOR_BACKWARD = "KeptForBackward"
# TensorBoard colours nodes by this, and has an entry for it in its menu.
_CLUSTER = "_XlaCluster"
_MIB = 2**20


def shown(view: GraphView, kept: Sequence[Kept], seeds: Collection[str]) -> Any:
    """Makes the graph to look at.

    Args:
        view: A function's graph, rewritten or not. A view from before a rewrite shows what was
            there then.
        kept: What it keeps for the backward pass.
        seeds: Names of the tensors that its gradient computations start from.

    Returns:
        A `GraphDef`.
    """
    return _Shown(view, kept, seeds).graph


class _Shown:
    def __init__(self, view: GraphView, kept: Sequence[Kept], seeds: Collection[str]) -> None:
        self._view = view
        self._defs = {node.name: _op(node).node_def for node in view.nodes if view.live[node.id]}
        self._shapes = {node.name: _shapes(node) for node in view.nodes}
        library = _library(view)
        self._functions = {f.signature.name: f for f in library.function}
        self._late = _depends_on(view, seeds)
        any_late = any(self._late)
        traced = [node for node in view.nodes if shown_names.origin(node.name).is_op]
        self._layers = shown_names.Layers(
            (node.name for node in traced), {n.name for n in traced if self._late[n.id]}
        )
        self._kept = self._kept_values({k.name: k for k in kept})
        self._nodes: dict[int, str] = {}  # node id -> name of what is shown for it
        self._tensors: dict[int, str] = {}  # value id -> the same for its tensor
        self._scopes: dict[int, str] = {}  # node id of a fused group -> its scope
        self._markers: dict[int, str] = {}  # value id -> the node that says that it is kept
        self._names: set[str] = set()
        self.graph = tf.compat.v1.GraphDef()
        for node in view.nodes:
            if view.live[node.id]:
                self._show(node)
                if not any_late:
                    self._mark(node)
        self._add_library(library)

    def _kept_values(self, kept: Mapping[str, Kept]) -> Mapping[int, Kept]:
        """What is known of kept buffers, by the id of the value that holds them now."""
        found: dict[int, Kept] = {}
        missing = dict(kept)
        early = [
            node
            for node in self._view.nodes
            if self._view.live[node.id] and not self._late[node.id]
        ]
        for value in (value for node in early for value in node.outputs):
            if value.name in kept:
                found[value.storage.id] = missing.pop(value.name)
        # A group computes what ops did that don't run any more.
        for node in early:
            if (function := self._fused(node)) is None:
                continue
            for value, name in zip(node.outputs, self._results(node, function), strict=True):
                if name in missing:
                    found[value.storage.id] = missing.pop(name)
        return found

    def _fused(self, node: Node) -> Any:
        """The function of a fused group; `None` for other nodes."""
        # What only carries a gradient fuses nothing.
        if node.op_type not in CALLS or node.attr(OWN_GRADIENT) is not None:
            return None
        function = self._functions.get(self._defs[node.name].attr["f"].func.name)
        if function is None or SCOPE not in function.signature.name:
            return None
        # Those of groups have one output each; a function that isn't like that stays a call.
        reads = [read for body in function.node_def for read in body.input]
        return function if all(_is_first_output(read) for read in reads) else None

    def _show(self, node: Node) -> None:
        reads = [self._read(value, node) for value in node.inputs]
        waits = [f"^{self._nodes[c.id]}" for c in node.controls if c.id in self._nodes]
        if (function := self._fused(node)) is not None:
            self._show_group(node, function, reads, waits)
            return
        name = node.name
        if shown_names.origin(name).added:
            name = self._layers.single(name, self._late[node.id])
        made, shapes = self._defs[node.name], self._shapes[node.name]
        shown = self._add(made, self._unique(name), [*reads, *waits], shapes)
        self._nodes[node.id] = shown
        for value in node.outputs:
            self._tensors[value.id] = f"{shown}:{value.index}" if value.index else shown

    def _show_group(
        self, call: Node, function: Any, reads: Sequence[str], waits: Sequence[str]
    ) -> None:
        """Shows the ops of a group in place of its call."""
        names = self._origins(call, function)
        pairs = zip(names, function.node_def, strict=True)
        constants = {name for name, body in pairs if body.op == "Const"}
        scope, members = self._layers.group(names, constants, self._late[call.id])
        scope = self._scopes[call.id] = self._unique(scope)
        made = dict(zip((a.name for a in function.signature.input_arg), reads, strict=True))
        for body, original, member in zip(function.node_def, names, members, strict=True):
            inputs = [made[read.partition(":")[0]] for read in body.input]
            name = self._unique(f"{scope}/{member}")
            # A copy that was fused never was a node of the graph; it has its original's shape.
            traced = original.removeprefix(f"{SCOPE}/")
            made[body.name] = self._add(body, name, [*inputs, *waits], self._shapes.get(traced))
            self.graph.node[-1].attr[_CLUSTER].s = scope.encode()
            waits = ()
        for value, arg in zip(call.outputs, function.signature.output_arg, strict=True):
            self._tensors[value.id] = made[function.ret[arg.name].partition(":")[0]]
        self._nodes[call.id] = self._tensors[call.outputs[0].id]

    def _origins(self, call: Node, function: Any) -> list[str]:
        """Names of the ops that a group was made of, in the order of its function."""
        names = [name.decode() for name in self._defs[call.name].attr[ORIGINS].list.s]
        scope = call.name.rpartition("/")[0]
        return names or [f"{scope}/{body.name}" for body in function.node_def]

    def _results(self, call: Node, function: Any) -> list[str]:
        """Names of the tensors that the results of a group stand for."""
        args = function.signature.output_arg
        if self._defs[call.name].attr[ORIGINS].list.s:
            nodes = [body.name for body in function.node_def]
            by_node = dict(zip(nodes, self._origins(call, function), strict=True))
            made = [function.ret[arg.name].partition(":")[0] for arg in args]
            return [f"{by_node.get(node, '')}:0" for node in made]
        # That of a cone: its result, and what is kept for its gradient (emit/cone_kernels.py).
        scope = call.name.rpartition("/")[0]
        kept = [f"{scope}/{arg.name}:0" for arg in args[1:]]
        return [f"{shown_names.origin(scope).path}:0", *kept]

    def _read(self, value: Value, reader: Node) -> str:
        """What a node is shown to read: in the backward pass, what is kept of a buffer."""
        kept = self._kept.get(value.storage.id)
        if kept is None or self._late[value.node.id] or not self._late[reader.id]:
            return self._tensors[value.id]
        return self._marker(value, kept)

    def _mark(self, node: Node) -> None:
        """Shows what is kept of a node, whoever reads it."""
        for value in node.outputs:
            if value.storage is value and value.id in self._kept:
                self._marker(value, self._kept[value.id])

    def _marker(self, value: Value, kept: Kept) -> str:
        """The node that says that a value is kept."""
        if value.id not in self._markers:
            node = tf.compat.v1.NodeDef(op=KEPT_FOR_BACKWARD)
            node.attr["size"].s = f"{kept.bytes / _MIB:.2f} MiB".encode()
            node.attr["why"].s = kept.why.encode()
            maker = kept.name.partition(":")[0]
            name = shown_names.kept(maker, self._scopes.get(value.storage.node.id))
            shapes = [tf.TensorShape(value.shape).as_proto()]
            reads = [self._tensors[value.id]]
            self._markers[value.id] = self._add(node, self._unique(name), reads, shapes)
        return self._markers[value.id]

    def _add(self, node: Any, name: str, reads: Sequence[str], shapes: Sequence[Any] | None) -> str:
        added = self.graph.node.add()
        added.CopyFrom(node)
        added.name = name
        added.input[:] = reads
        # Colocation names nodes that aren't shown; it is told by the device already.
        added.attr.pop("_class", None)
        added.attr.pop(ORIGINS, None)
        if shapes is not None:
            added.attr["_output_shapes"].list.shape.extend(shapes)
        return name

    def _unique(self, name: str) -> str:
        """The name, with a number if it is taken."""
        chosen, number = name, 0
        while chosen in self._names:
            number += 1
            chosen = f"{name}_{number}"
        self._names.add(chosen)
        return chosen

    def _add_library(self, library: Any) -> None:
        """Adds the functions that are still called: those of loops and branches."""
        wanted = [f.func.name for node in self.graph.node for f in node.attr.values()]
        seen: set[str] = set()
        while wanted:
            name = wanted.pop()
            if name in self._functions and name not in seen:
                seen.add(name)
                body = self._functions[name].node_def
                wanted += [f.func.name for node in body for f in node.attr.values()]
        self.graph.library.function.extend(self._functions[name] for name in sorted(seen))
        self.graph.library.gradient.extend(library.gradient)


def _depends_on(view: GraphView, seeds: Collection[str]) -> list[bool]:
    """Per node id, whether it runs after a gradient computation started."""
    late = [False] * len(view.nodes)
    names = {seed.partition(":")[0] for seed in seeds}
    for node in view.nodes:
        before = [*(v.node for v in node.inputs), *node.controls]
        late[node.id] = node.name in names or any(late[other.id] for other in before)
    return late


def _op(node: Node) -> tf.Operation:
    assert node.op is not None, f"{node} is not in the graph yet"
    return node.op


def _shapes(node: Node) -> list[Any]:
    return [tf.TensorShape(value.shape).as_proto() for value in node.outputs]


def _library(view: GraphView) -> Any:
    """The functions that the graph of a view holds."""
    graphs = [_op(node).graph for node in view.nodes[:1]]
    return graphs[0].as_graph_def().library if graphs else tf.compat.v1.GraphDef().library


def _is_first_output(read: str) -> bool:
    """Whether an input of a function's node is an argument, or another node's first output."""
    return ":" not in read or read.endswith(":0")
