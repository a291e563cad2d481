"""What is kept, by layer, for figures in which runs stand side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nested_fad_tf.report import layers
from nested_fad_tf.report.summary import Kept

# Layers are told apart until there are that many; a figure has room for some more.
_FEW, _MOST = 16, 24

Sizes = Mapping[str, Sequence[int]]


def by_layer(
    runs: Mapping[str, Sequence[Kept]], order: Sequence[str] = ()
) -> tuple[list[str], Sizes]:
    """Sums what is kept by layer.

    Args:
        runs: What is kept, by run.
        order: Names of ops in order of execution, to put the layers in; without it they come in
            the order of their names.

    Returns:
        The layers, at most 24: of more, those that keep least are the last one together. And by
        run the bytes of each.
    """
    items = [(run, tensor) for run, tensors in runs.items() for tensor in tensors]
    groups = layers.grouped(items, lambda i: i[1].layer, lambda i: i[1].bytes, few=_FEW)
    if order:
        places = {name: place for place, name in enumerate(order)}
        first = {
            name: min(places.get(_op(tensor), len(places)) for _, tensor in group)
            for name, group in groups.items()
        }
        groups = dict(sorted(groups.items(), key=lambda item: first[item[0]]))
    sums: Mapping[str, Mapping[str, int]] = {
        name: {run: _sum(group, run) for run in runs} for name, group in groups.items()
    }
    if len(sums) > _MOST:
        sums = _with_others(sums, runs)
    return list(sums), {run: [each[run] for each in sums.values()] for run in runs}


def _with_others(
    sums: Mapping[str, Mapping[str, int]], runs: Mapping[str, Sequence[Kept]]
) -> dict[str, Mapping[str, int]]:
    """The layers that keep most, in the order they had, and the others as one."""
    chosen = sorted(sums, key=lambda name: -max(sums[name].values()))[: _MOST - 1]
    result = {name: each for name, each in sums.items() if name in chosen}
    rest = [each for name, each in sums.items() if name not in chosen]
    result[f"{len(rest)} others"] = {run: sum(each[run] for each in rest) for run in runs}
    return result


def _sum(group: Sequence[tuple[str, Kept]], run: str) -> int:
    return sum(tensor.bytes for which, tensor in group if which == run)


def _op(tensor: Kept) -> str:
    return tensor.name.partition(":")[0]
