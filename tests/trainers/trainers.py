"""What the tests of other people's trainers share: options, and how runs are compared."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf
import traced

import nested_fad_tf as nfad

OPTIONS = nfad.Options(on_error="raise", fuse="ops", min_bytes=1024)
INSTALL = "not installed; pip install nested_fad_tf[trainers]"
# The gradient of an attention key's bias is zero but for rounding, and the bias with it. What is
# below this part of the largest entry of all tensors isn't compared.
ZERO = 1e-7


def assert_same(actual: Any, expected: Any, rtol: float = 1e-5) -> None:
    """As that of all tests, without what is zero but for rounding; nothing may be infinite."""
    assert all(np.isfinite(np.asarray(e, np.float64)).all() for e in tf.nest.flatten(expected))
    traced.assert_same(actual, expected, rtol, ZERO)


def assert_fired(reports: Iterable[nfad.Report]) -> None:
    """Asserts that a function was rewritten, and is said to need less for it."""
    changed = [r for r in reports if r.changed]
    assert changed, {r.reason for r in reports}
    assert all(r.kept_bytes_after < r.kept_bytes_before for r in changed)


def dense(structure: Any) -> Any:
    """Sparse gradients, those of embeddings, as tensors."""
    return tf.nest.map_structure(tf.convert_to_tensor, structure)


def numbers(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def whole(below: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, below, shape).astype(np.int32)
