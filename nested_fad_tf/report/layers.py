"""Names of layers as readers know them: without the scopes of the backward pass."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

_PASSES = re.compile(r"(^|/)(nested_fad|gradient_tape|gradients(_\d+)?)(?=/|$)")
_NUMBERING = re.compile(r"(_\d+)+$")
_TOP_LEVEL = "(top level)"
_K = TypeVar("_K")
_T = TypeVar("_T")


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


def grouped(
    items: Sequence[_T], scope: Callable[[_T], str], size: Callable[[_T], int], few: int
) -> dict[str, list[_T]]:
    """Groups items by layer.

    Goes as deep in the tree of scopes as gives few groups, and deeper where one group would hold
    more than half of all. Between two levels of the tree are those whose names begin alike, as
    block2_conv and block2_bn do.

    Args:
        items: What lies in scopes.
        scope: Gives an item's scope.
        size: Gives an item's size.
        few: How many groups are few.

    Returns:
        Items by layer in natural order, as briefly named as keeps the names apart.
    """
    paths = [path_of(scope(item)) for item in items]
    total = sum(map(size, items))
    chosen: dict[tuple[str, ...], list[_T]] = {}
    for depth in range(1, max(map(len, paths), default=0) + 1):
        whole = [path[:depth] for path in paths]
        for keys in (_begin_alike(whole, depth), whole):
            groups = _by(keys, items)
            largest = max((sum(map(size, g)) for g in chosen.values()), default=total)
            if len(groups) <= few or 2 * largest > total:
                chosen = groups
    ordered = sorted(chosen, key=natural)
    return {name: chosen[path] for name, path in zip(_short(ordered), ordered, strict=True)}


def _begin_alike(paths: Sequence[tuple[str, ...]], depth: int) -> list[tuple[str, ...]]:
    """The paths with those last parts shortened that begin with the same word as others do."""
    words = [(*path[: depth - 1], path[-1].partition("_")[0]) for path in paths]
    several = {word: len(set(own)) > 1 for word, own in _by(words, paths).items()}
    return [
        (*word[:-1], f"{word[-1]}_*") if len(path) == depth and several[word] else path
        for word, path in zip(words, paths, strict=True)
    ]


def _by(keys: Sequence[_K], values: Sequence[_T]) -> dict[_K, list[_T]]:
    groups: dict[_K, list[_T]] = {}
    for key, value in zip(keys, values, strict=True):
        groups.setdefault(key, []).append(value)
    return groups


def _short(paths: Sequence[tuple[str, ...]]) -> list[str]:
    """Leaves out beginnings of names that aren't needed to tell them apart."""
    endings = Counter(path[-parts:] for path in paths for parts in range(1, len(path) + 1))
    names = []
    for path in paths:
        unique = [n for n in range(1, len(path)) if endings[path[-n:]] == 1]
        names.append("/".join(path[-unique[0] :] if unique else path))
    return names
