"""The functions of a SavedModel as one graph to look at."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from nested_fad_tf.errors import SavedModelError
from nested_fad_tf.graph import versions
from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.integrations.saved_model import files
from nested_fad_tf.integrations.saved_model.library import Library
from nested_fad_tf.integrations.saved_model.signatures import entries
from nested_fad_tf.report.shown_graph import shown
from nested_fad_tf.report.summary import Kept, Report


def graph_of_functions(
    src: str | os.PathLike[str],
    reports: Mapping[str, Report],
    kept: Mapping[str, Sequence[Kept]],
    signatures: Sequence[str] | None = None,
) -> Any:
    """Reads the graphs of all functions.

    Args:
        src: The folder of a SavedModel; it is only read.
        reports: What is known of its functions, by the names that the file has for them.
        kept: What they keep, by the same names.
        signatures: Show what these signatures call only; everything by default.

    Returns:
        One `GraphDef` with the nodes of each function, in a scope of the function's name; what was
        added is marked as in `report/shown_graph.py`.

    Raises:
        UnsupportedVersionError: If the installed TensorFlow is not supported.
        SavedModelError: If `src` can't be read, holds no functions, or a signature is unknown.
    """
    versions.check_supported()
    model = files.read(pathlib.Path(src))
    (meta_graph, *others) = model.meta_graphs
    if others or not meta_graph.HasField("object_graph_def"):
        raise SavedModelError(f"{src}: written by TensorFlow 1, it holds no functions to show")
    library = Library(meta_graph)
    whole = tf.compat.v1.GraphDef()
    called = entries(meta_graph.object_graph_def, signatures)
    wanted = set(library.names()) if signatures is None else library.reachable(called)
    for name in filter(wanted.__contains__, library.names()):
        view = GraphView.from_func_graph(library.functions[name].graph)
        seeds = reports[name].gradient_seeds if name in reports else ()
        part = shown(view, kept.get(name, ()), seeds)
        for node in part.node:
            _move(node, name)
            whole.node.append(node)
    return whole


def _move(node: Any, scope: str) -> None:
    """Puts a node into a scope, and has it read from there."""
    node.name = f"{scope}/{node.name}"
    for index, read in enumerate(node.input):
        waits = read.startswith("^")
        node.input[index] = f"^{scope}/{read[1:]}" if waits else f"{scope}/{read}"
    places = node.attr["_class"].list.s if "_class" in node.attr else []
    for index, place in enumerate(places):
        kind, _, name = place.partition(b"@")
        places[index] = kind + b"@" + f"{scope}/".encode() + name
