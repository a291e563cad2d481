"""The functions that somebody may call: all of a SavedModel's, or those of some signatures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from nested_fad_tf.errors import SavedModelError


def entries(objects: Any, signatures: Sequence[str] | None) -> Iterable[str]:
    """Names of the functions that somebody may call.

    Args:
        objects: The object graph of a SavedModel.
        signatures: Names of signatures; `None` for all functions, with a signature or without.

    Returns:
        The names that the function library has for them.

    Raises:
        SavedModelError: If a signature is unknown.
    """
    if signatures is None:
        return list(objects.concrete_functions)
    known = by_signature(objects)
    for name in signatures:
        if name not in known:
            has = ", ".join(map(repr, sorted(known))) or "none"
            raise SavedModelError(f"unknown signature {name!r}; the model has: {has}")
    return [known[name] for name in signatures]


def by_signature(objects: Any) -> dict[str, str]:
    """Names of the functions of a SavedModel's signatures.

    Args:
        objects: Its object graph.

    Returns:
        The functions, by signature.
    """
    children = {c.local_name: objects.nodes[c.node_id] for c in objects.nodes[0].children}
    if "signatures" not in children:
        return {}
    found = {}
    for child in children["signatures"].children:
        function = objects.nodes[child.node_id].bare_concrete_function.concrete_function_name
        if function:
            found[child.local_name] = function
    return found
