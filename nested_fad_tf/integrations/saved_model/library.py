"""The functions in a SavedModel's graph: as `FuncGraph`s to rewrite, and back.

What goes back are differences: nodes that were added, and inputs that changed. All else stays as it
was saved, so that names, attributes, shared resources and what other tools left there survive.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from nested_fad_tf.integrations.saved_model import internals


class Library:
    """The function library of a SavedModel.

    Attributes:
        proto: The library that is changed.
        objects: The object graph that goes with it.
        functions: Its functions as `ConcreteFunction`s, by saved name; their graphs are what may be
            rewritten.
    """

    def __init__(self, meta_graph: Any) -> None:
        """Makes graphs of all functions.

        Args:
            meta_graph: The `MetaGraphDef` of a SavedModel; its library is changed later.
        """
        self.proto = meta_graph.graph_def.library
        self.objects = meta_graph.object_graph_def
        self._definitions = {f.signature.name: f for f in self.proto.function}
        self.functions = internals.load_functions(self.proto, self.objects)

    def names(self) -> Iterator[str]:
        """Names of all functions, in the order in which they are stored."""
        return (f.signature.name for f in self.proto.function)

    def gradients(self) -> frozenset[str]:
        """Names of functions that are gradients of others."""
        registered = {g.gradient_func for g in self.proto.registered_gradients}
        return frozenset(registered | {g.gradient_func for g in self.proto.gradient})

    def called(self, name: str) -> list[str]:
        """The functions that a function calls itself.

        Args:
            name: A function.

        Returns:
            The names of others, each as often as it is called.
        """
        nodes = self._definitions[name].node_def
        found = (n for node in nodes for n in (node.op, *_functions_of(node)))
        return [n for n in found if n in self._definitions]

    def reachable(self, names: Iterable[str]) -> set[str]:
        """Functions, all that they call, and so on.

        Args:
            names: Where to start.

        Returns:
            The names.
        """
        found: set[str] = set()
        pending = list(names)
        while pending:
            name = pending.pop()
            if name not in found:
                found.add(name)
                pending += self.called(name)
        return found

    def store(self, name: str) -> None:
        """Takes over what was changed in the graph of a function.

        Args:
            name: The function.

        Raises:
            ValueError: If the function would return something else than before.
        """
        target = self._definitions[name]
        graph = self.functions[name].graph
        source = internals.definition_of(graph)
        _check_returns(target, source)
        nodes = {node.name: node for node in target.node_def}
        for changed in source.node_def:
            node = nodes.get(changed.name)
            if node is None:
                _say_shapes(changed, graph)
                target.node_def.add().CopyFrom(changed)
                self._add_called(changed)
            elif _edges(node) != _edges(changed):
                node.input[:] = changed.input

    def add(self, definition: Any) -> None:
        """Adds a function with what it calls.

        Args:
            definition: Its `FunctionDef`; its name must be new.
        """
        added = self.proto.function.add()
        added.CopyFrom(definition)
        self._definitions[added.signature.name] = added
        for node in added.node_def:
            self._add_called(node)

    def _add_called(self, node: Any) -> None:
        for name in _functions_of(node):
            if name not in self._definitions:
                self.add(internals.definition_named(name))


def _say_shapes(node: Any, graph: Any) -> None:
    """Stores static shapes as TensorFlow does: nobody infers those of a call's results."""
    shapes = [t.shape.as_proto() for t in graph.get_operation_by_name(node.name).outputs]
    if shapes:
        node.attr["_output_shapes"].list.shape.extend(shapes)


def _functions_of(node: Any) -> Iterator[str]:
    """Names of the functions in a node's attributes."""
    for attribute in node.attr.values():
        kind = attribute.WhichOneof("value")
        if kind == "func":
            yield attribute.func.name
        elif kind == "list":
            yield from (f.name for f in attribute.list.func)


def _edges(node: Any) -> tuple[list[str], set[str]]:
    """What a node reads and waits for; the order of the latter means nothing."""
    waits = {i for i in node.input if i.startswith("^")}
    return [i for i in node.input if i not in waits], waits


def _check_returns(target: Any, source: Any) -> None:
    """Compares by position: names of arguments and results are TensorFlow's own choice."""
    before = [target.ret[a.name] for a in target.signature.output_arg]
    after = [source.ret[a.name] for a in source.signature.output_arg]
    arguments = [a.name for a in target.signature.input_arg]
    if before != after or arguments != [a.name for a in source.signature.input_arg]:
        raise ValueError(f"{target.signature.name} would return something else")
