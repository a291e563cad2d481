"""How TensorFlow reads and writes SavedModels, inside.

Uses private TensorFlow API, checked on 2.18 to 2.21: the loader's `load_function_def_library`, the
serialization of concrete functions, `atomic_function.from_func_graph`, the gradient registry, and
the fingerprints that lie beside a SavedModel's graph.
"""

from __future__ import annotations

import pathlib
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import function_pb2
from tensorflow.core.protobuf import fingerprint_pb2

from nested_fad_tf.graph import versions


def load_functions(library: Any, objects: Any) -> Mapping[str, Any]:
    """Makes functions of a function library.

    Args:
        library: The `FunctionDefLibrary`.
        objects: The object graph that goes with it.

    Returns:
        `ConcreteFunction`s by the names that the library has for them.
    """
    copy = function_pb2.FunctionDefLibrary()
    copy.CopyFrom(library)  # the loader changes what it reads
    loader = versions.private("saved_model.function_deserialization")
    return loader.load_function_def_library(copy, objects)


def definition_of(graph: Any) -> Any:
    """A graph as a function.

    Args:
        graph: The `FuncGraph`.

    Returns:
        Its `FunctionDef`.
    """
    atomic_function = versions.private("eager.polymorphic_function.atomic_function")
    name = f"nested_fad_saved_{uuid.uuid4().hex}"
    return atomic_function.from_func_graph(name, graph, attrs={}).cached_definition


def definition_named(name: str) -> Any:
    """The `FunctionDef` of a function of this process, by its name."""
    return versions.private("eager.context").context().get_function_def(name)


def registered_gradient(op_type: str) -> Any:
    """The Python function that is registered as an op type's gradient."""
    return versions.private("framework.ops").gradient_registry.lookup(op_type)


def serialize(function: Any, captures: Iterable[tuple[tf.Tensor, int]]) -> Any:
    """What an object graph says of a function.

    Args:
        function: The `ConcreteFunction`.
        captures: Tensors that it captures, each with its node in the object graph.

    Returns:
        The `SavedConcreteFunction`.
    """
    node_ids = versions.private("util.object_identity").ObjectIdentityDictionary()
    for tensor, node in captures:
        node_ids[tensor] = node
    serialization = versions.private("saved_model.function_serialization")
    return serialization.serialize_concrete_function(function, node_ids)


def checksums(folder: pathlib.Path) -> tuple[int, int]:
    """Checksums of a SavedModel's graph.

    Args:
        folder: The SavedModel.

    Returns:
        What its fingerprint says, and what it is.

    Raises:
        Exception: Of any kind, if one of the two can't be read.
    """
    fingerprinting = versions.private("saved_model.pywrap_saved_model").fingerprinting
    recorded = fingerprinting.ReadSavedModelFingerprint(str(folder))
    actual = fingerprinting.CreateFingerprintDef(str(folder))
    first, second = map(fingerprint_pb2.FingerprintDef.FromString, (recorded, actual))
    return first.saved_model_checksum, second.saved_model_checksum


def write_fingerprint(folder: pathlib.Path) -> None:
    """Writes the fingerprint of a SavedModel."""
    versions.private("saved_model.fingerprinting_utils").write_fingerprint(str(folder))
