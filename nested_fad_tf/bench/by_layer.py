"""How far lossy gradients are off, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

from nested_fad_tf.bench.summary import Rows


@dataclass(frozen=True)
class Gradient:
    """One gradient.

    Attributes:
        model: The model's name.
        path: The path of its variable.
        errors: By version: the norm of its difference as a part of its own norm, and the cosine
            between what it should be and what it is.
    """

    model: str
    path: str
    errors: dict[str, tuple[float, float]]


def rows(gradients: Rows) -> list[Gradient]:
    """Puts together what was measured of each gradient.

    Args:
        gradients: Rows of `nested_fad_tf.bench.agreement` as dictionaries.

    Returns:
        A row for each gradient of which a lossy version was measured.
    """
    found: dict[tuple[str, str], Gradient] = {}
    for row in gradients:
        for path, errors in row["tensors"].items():
            key = row["model"], path
            found.setdefault(key, Gradient(*key, {})).errors[row["strategy"]] = tuple(errors)
    return list(found.values())
