"""Names for a graph that is looked at: which layer something belongs to, and what became of it.

TensorBoard groups nodes by the scopes in their names. What the rewrite added is called
`nested_fad/<name of the original op>` in the graph that runs. Here it moves to the layer that it
came from, in scopes that say what it is:

    dense_1/kept/...                             read by the backward pass
    dense_1/nested_fad/kept/...                  made in order to be kept: packed masks, derivatives
    fused_dense_1+gelu_1/...                     ops that run as one
    gradient_tape/dense_1/nested_fad/recomputed/...     computed again in the backward pass
    gradient_tape/dense_1/nested_fad/gradient/...       stands for ops of the backward pass
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from nested_fad_tf.plan.rewrite import SCOPE

KEPT, RECOMPUTED, GRADIENT = "kept", "recomputed", "gradient"
_FUSED = "fused"
# Where TensorFlow puts derivative ops, with the scope that it was in when it made them.
_GRADIENT = re.compile(r"^(.*?)gradient_tape/")
_GRADIENT_TAPE = "gradient_tape/"
# What TensorFlow appends to a name that is taken.
_NUMBER = re.compile(r"_\d+$")
# A label with more layers than that would not fit into a node.
_LAYERS_NAMED = 3


@dataclass(frozen=True)
class Origin:
    """Where an op comes from, as far as its name tells.

    Attributes:
        path: Name of the traced op, without scopes of derivatives and of this package.
        added: Whether the rewrite made it.
        derivative: Whether TensorFlow made the traced op while differentiating.
    """

    path: str
    added: bool
    derivative: bool

    @property
    def is_op(self) -> bool:
        """Whether the name is that of a traced op outside the scopes of derivatives."""
        return not (self.added or self.derivative)


def origin(name: str) -> Origin:
    """Reads a name.

    Args:
        name: Of an op of a graph, rewritten or not.

    Returns:
        Where it comes from.
    """
    path = name.removeprefix(f"{SCOPE}/")
    gradient = _GRADIENT.match(path)
    bare = path if gradient is None else gradient[1] + path[gradient.end() :]
    return Origin(bare, path != name, gradient is not None)


class Layers:
    """Finds the layers of ops.

    Args:
        ops: Names of the traced ops outside the scopes of derivatives.
        backward: Those of them that depend on a gradient all the same, such as sums of gradients.
    """

    def __init__(self, ops: Iterable[str], backward: Collection[str] = ()) -> None:
        self._ops = frozenset(ops)
        self._backward = frozenset(backward)

    def split(self, path: str) -> tuple[str, str]:
        """Splits the path of an op into the layer and the rest.

        Args:
            path: As `Origin.path`; that of a derivative begins with the name of a forward op.

        Returns:
            The scope of the op that it begins with, and what follows.
        """
        parts = path.split("/")
        end = self._length_of_op(path) or len(parts)
        return "/".join(parts[: end - 1]), "/".join(parts[end - 1 :])

    def single(self, name: str, late: bool) -> str:
        """The name to show for an op that the rewrite added.

        Args:
            name: Its name.
            late: Whether it runs in the backward pass.

        Returns:
            The name.
        """
        found = origin(name)
        layer, rest = self.split(found.path)
        if not late:
            return _joined(layer, SCOPE, KEPT, rest)
        kind = RECOMPUTED if self._is_copy(found) else GRADIENT
        return _joined(_GRADIENT_TAPE, layer, SCOPE, kind, rest)

    def group(
        self, names: Sequence[str], constants: Collection[str], late: bool
    ) -> tuple[str, list[str]]:
        """The names to show for a fused group and the ops in it.

        Args:
            names: Names of the ops.
            constants: Those that are constants; which layer they are of doesn't matter.
            late: Whether it runs in the backward pass.

        Returns:
            The scope of the group, and for each op the rest of its name.
        """
        origins = [origin(name) for name in names]
        computed = [origin(name) for name in names if name not in constants]
        found = dict.fromkeys(self.split(o.path)[0] for o in computed)
        # Sums of gradients belong to no layer.
        layers = [layer for layer in found if layer] or [""]
        common = posixpath.commonpath(layers)
        label = _label(common, layers) or self.split(computed[-1].path)[1]
        place = common if len(layers) > 1 else posixpath.dirname(common)
        scope = _joined(_GRADIENT_TAPE if late else "", place, f"{_FUSED}_{label}")
        return scope, [self._member(o, common, late) for o in origins]

    def _member(self, found: Origin, common: str, late: bool) -> str:
        path = found.path.removeprefix(f"{common}/") if common else found.path
        return _joined(RECOMPUTED if late and self._is_copy(found) else "", path)

    def _is_copy(self, found: Origin) -> bool:
        """Whether something is a copy of a forward op, or made of one."""
        length = self._length_of_op(found.path)
        op = "/".join(found.path.split("/")[:length])
        in_backward = op in self._backward or _NUMBER.sub("", op) in self._backward
        return found.added and not found.derivative and bool(length) and not in_backward

    def _length_of_op(self, path: str) -> int:
        """How many parts of a path name a traced op; 0 if none do."""
        parts = path.split("/")
        for end in range(1, len(parts) + 1):
            name = "/".join(parts[:end])
            if name in self._ops or _NUMBER.sub("", name) in self._ops:
                return end
        return 0


def kept(name: str, group: str | None) -> str:
    """The name to show for a tensor that the backward pass reads.

    Args:
        name: Of the op that makes it.
        group: The scope of the fused group that the op is in, if it is in one.

    Returns:
        The name.
    """
    scope, _, op = origin(name).path.rpartition("/")
    return _joined(scope if group is None else group, KEPT, op)


def _label(common: str, layers: Sequence[str]) -> str:
    """The layers below the scope that they share; if there are none below, that scope's own name.

    Where a layer is part of another one, the inner one says more.
    """
    start = len(common) + 1 if common else 0
    below = dict.fromkeys(layer[start:].partition("/")[0] for layer in layers)
    named = [name for name in below if name] or [common.rpartition("/")[2]]
    more = len(named) - _LAYERS_NAMED
    return "+".join(named[:_LAYERS_NAMED]) + (f"+{more}_more" if more > 0 else "")


def _joined(*parts: str) -> str:
    return "/".join(part.strip("/") for part in parts if part)
