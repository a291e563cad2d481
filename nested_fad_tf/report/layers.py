"""Names of layers as readers know them: without the scopes of the backward pass."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

_PASSES = re.compile(r"(^|/)(nested_fad|gradient_tape|gradients(_\d+)?)(?=/|$)")
_NUMBERING = re.compile(r"(_\d+)+$")
_TOP_LEVEL = "(top level)"
_T = TypeVar("_T", bound=Hashable)


def path_of(scope: str) -> tuple[str, ...]:
    """Splits the scope of an op, leaving out that of the backward pass and of this package.

    Args:
        scope: A name with slashes.

    Returns:
        Its parts; at least one.
    """
    parts = tuple(part for part in _PASSES.sub("", scope).split("/") if part)
    return parts or (_TOP_LEVEL,)


def kind_of(name: str, parts: int = 3) -> str:
    """What ops alike in several layers have in common: the end of the name, numbers left out.

    Args:
        name: Name of an op.
        parts: How many scopes to show at most.

    Returns:
        The name, with a ∂ before it if TensorFlow made the op while differentiating.
    """
    tail = "/".join(_NUMBERING.sub("", part) for part in path_of(name)[-parts:])
    return f"∂ {tail}" if "gradient" in name.partition(tail)[0] else tail


def natural(path: Sequence[str]) -> list[list[tuple[int, str]]]:
    """A key that sorts layer_2 before layer_10.

    Args:
        path: Parts of a name.

    Returns:
        The key.
    """
    return [
        [(int(run), "") if run.isdigit() else (-1, run) for run in re.split(r"(\d+)", part)]
        for part in path
    ]


def grouped(items: Sequence[_T], scope: Callable[[_T], str], most: int) -> dict[str, list[_T]]:
    """Groups items by layer, as deep in the tree of scopes as few groups allow.

    Args:
        items: What lies in scopes.
        scope: Gives an item's scope.
        most: How many groups there may be; the two topmost levels that differ may give more.

    Returns:
        Items by layer in natural order. The part of the names that all share is left out.
    """
    paths = {item: path_of(scope(item)) for item in items}
    shared = _shared(list(paths.values()))
    deepest = max(map(len, paths.values()), default=0)
    chosen: dict[str, list[_T]] = {}
    for depth in range(shared + 1, deepest + 1):
        groups: dict[tuple[str, ...], list[_T]] = {}
        for item, path in paths.items():
            groups.setdefault(path[shared:depth] or path[-1:], []).append(item)
        if chosen and len(groups) > most:
            break
        chosen = {"/".join(path): groups[path] for path in sorted(groups, key=natural)}
    return chosen


def _shared(paths: Sequence[tuple[str, ...]]) -> int:
    """How many parts all paths begin with; every path keeps one of its own."""
    count = 0
    for column in zip(*paths, strict=False):
        if len(set(column)) > 1:
            break
        count += 1
    return min([count, *(len(path) - 1 for path in paths)], default=0)
