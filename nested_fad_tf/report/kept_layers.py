"""What is kept, by layer, for figures in which runs stand side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nested_fad_tf.report.shown_names import origin
from nested_fad_tf.report.summary import Kept

# As many as a figure has room for.
_MOST = 32

Sizes = Mapping[str, Sequence[int]]


def by_layer(runs: Mapping[str, Sequence[Kept]], order: Sequence[str]) -> tuple[list[str], Sizes]:
    """Sums what is kept by layer; scopes so deep that there would be too many layers are joined.

    Args:
        runs: What is kept, by run.
        order: Names of ops in order of execution; others come last.

    Returns:
        The layers in order of execution, and by run the bytes of each.
    """
    places = {name: place for place, name in enumerate(order)}
    kept = [tensor for tensors in runs.values() for tensor in tensors]
    kept.sort(key=lambda tensor: places.get(_op(tensor), len(places)))
    scopes = {_op(tensor): origin(_op(tensor)).path.split("/")[:-1] for tensor in kept}
    depth = _depth(list(scopes.values()))
    layers = {op: "/".join(scope[:depth]) or "(top level)" for op, scope in scopes.items()}
    names = list(dict.fromkeys(layers[_op(tensor)] for tensor in kept))
    sizes = {run: [0] * len(names) for run in runs}
    numbers = {name: number for number, name in enumerate(names)}
    for run, tensors in runs.items():
        for tensor in tensors:
            sizes[run][numbers[layers[_op(tensor)]]] += tensor.bytes
    return names, sizes


def _op(tensor: Kept) -> str:
    return tensor.name.partition(":")[0]


def _depth(scopes: Sequence[Sequence[str]]) -> int:
    """How deep scopes may be told apart."""
    deepest = max(map(len, scopes), default=0)
    for depth in range(deepest, 1, -1):
        if len({tuple(scope[:depth]) for scope in scopes}) <= _MOST:
            return depth
    return 1
