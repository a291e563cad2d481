"""The functions in a SavedModel's graph: as `FuncGraph`s to rewrite, and back.

What goes back are differences: nodes that were added, and inputs that changed. All else stays as it
was saved, so that names, attributes, shared resources and what other tools left there survive.

Uses private TensorFlow API (checked on 2.21): the SavedModel loader's `load_function_def_library`,
and `atomic_function.from_func_graph`, which gives a graph as a `FunctionDef`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tensorflow.core.framework import function_pb2
from tensorflow.python.eager import context
from tensorflow.python.eager.polymorphic_function import atomic_function
from tensorflow.python.framework import ops
from tensorflow.python.saved_model import function_deserialization


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
        copy = function_pb2.FunctionDefLibrary()
        copy.CopyFrom(self.proto)  # the loader changes what it reads
        self.functions: Mapping[str, Any] = function_deserialization.load_function_def_library(
            copy, self.objects
        )

    def names(self) -> Iterator[str]:
        """Names of all functions, in the order in which they are stored."""
        return (f.signature.name for f in self.proto.function)

    def gradients(self) -> frozenset[str]:
        """Names of functions that are gradients of others."""
        registered = {g.gradient_func for g in self.proto.registered_gradients}
        return frozenset(registered | {g.gradient_func for g in self.proto.gradient})

    def called(self, name: str) -> set[str]:
        """The functions that a function calls itself.

        Args:
            name: A function.

        Returns:
            The names of others.
        """
        nodes = self._definitions[name].node_def
        found = {n for node in nodes for n in (node.op, *_functions_of(node))}
        return found & self._definitions.keys()

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

    def store(self, name: str, gradient_types: Mapping[str, str]) -> None:
        """Takes over what was changed in the graph of a function.

        Args:
            name: The function.
            gradient_types: How the registered gradients of added ops are called in the file, by
                what they are called in this process.

        Raises:
            ValueError: If the function returns something else than before.
        """
        target = self._definitions[name]
        graph = self.functions[name].graph
        source = _definition(graph)
        _check_returns(target, source)
        nodes = {node.name: node for node in target.node_def}
        for changed in source.node_def:
            node = nodes.get(changed.name)
            if node is None:
                added = target.node_def.add()
                added.CopyFrom(changed)
                own = added.attr["_gradient_op_type"].s.decode()
                if own:
                    added.attr["_gradient_op_type"].s = gradient_types[own].encode()
                else:
                    del added.attr["_gradient_op_type"]
                self._add_called(added, graph)
            elif _edges(node) != _edges(changed):
                node.input[:] = changed.input

    def add(self, function: Any, name: str) -> None:
        """Adds a function with what it calls.

        Args:
            function: A `ConcreteFunction`.
            name: What it is called in the file.
        """
        definition = self.proto.function.add()
        definition.CopyFrom(function.function_def)
        definition.signature.name = name
        self._definitions[name] = definition
        for node in definition.node_def:
            self._add_called(node, function.graph)

    def _add_called(self, node: Any, graph: Any) -> None:
        for name in _functions_of(node):
            if name not in self._definitions:
                definition = self.proto.function.add()
                definition.CopyFrom(context.context().get_function_def(name))
                self._definitions[name] = definition
                for inner in definition.node_def:
                    self._add_called(inner, graph)


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


def _definition(graph: Any) -> Any:
    name = f"nested_fad_saved_{ops.uid()}"
    function = atomic_function.from_func_graph(name, graph, attrs={})
    return function.cached_definition


def _check_returns(target: Any, source: Any) -> None:
    """Compares by position: names of arguments and results are TensorFlow's own choice."""
    before = [target.ret[a.name] for a in target.signature.output_arg]
    after = [source.ret[a.name] for a in source.signature.output_arg]
    arguments = [a.name for a in target.signature.input_arg]
    if before != after or arguments != [a.name for a in source.signature.input_arg]:
        raise ValueError(f"{target.signature.name} would return something else")
