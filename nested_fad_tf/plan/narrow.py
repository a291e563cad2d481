"""Derivatives in narrower formats: packed in the forward pass, unpacked for their cotangent.

Lossy, and only for `Options.precision`. What is stored so are derivatives and nothing else: the
forward pass never reads them, so that outputs and the loss are what they were.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Collection, Sequence

import tensorflow as tf

from nested_fad_tf.graph.nodes import Value
from nested_fad_tf.graph.sizes import size_in_bytes
from nested_fad_tf.ops.expr import Const, Expr, Leaf
from nested_fad_tf.options import Options
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.factor import Region
from nested_fad_tf.plan.formats import format_of
from nested_fad_tf.plan.inverse import Inverses
from nested_fad_tf.plan.lower import broadcast
from nested_fad_tf.plan.plan import Keep
from nested_fad_tf.plan.sources import find_awaited, find_factors, latest_source, values_of
from nested_fad_tf.plan.storage import Extent, Format


class Narrowing:
    """Decides how derivatives are stored.

    Args:
        candidates: The buffers of the forward pass.
        options: The precision, and what is too small to bother.
        spread: Ids of values that are kept as what they are spread from: see plan/spread.py.
    """

    def __init__(
        self, candidates: Candidates, options: Options, spread: Collection[int] = ()
    ) -> None:
        self._candidates = candidates
        self._options = options
        self._spread = spread
        self._factors = find_factors(candidates)

    @functools.cached_property
    def _awaited(self) -> list[bool]:
        """Per node id, whether it is a cotangent that has to be waited for: see `sources`."""
        return find_awaited(self._candidates)

    @functools.cached_property
    def _inverses(self) -> Inverses:
        """Finds derivatives that follow from outputs."""
        return Inverses(self._candidates, self._spread)

    def formats(self, region: Region) -> dict[Expr, Format]:
        """The formats that the derivatives of a region are stored in.

        A cotangent that is made of the seed alone is there as soon as the forward pass is through:
        what it is multiplied with is kept for no time, and rounding it would spoil all gradients.

        Args:
            region: A region of the backward pass.

        Returns:
            For each derivative, or part of one, that is stored with a loss its format.
        """
        if self._options.precision == "exact":
            return {}
        pairs = [pair for row in region.derivatives.values() for pair in row.items()]
        at_once = {d for cotangent, d in pairs if not self._awaited[cotangent.node.id]}
        found: dict[Expr, Format] = {}
        for derivative in dict.fromkeys(d for _, d in pairs if d not in at_once):
            if self._options.precision == "inverse":
                found |= self._inverses.parts(derivative, region, self._may_be_lossy)
            elif self._may_be_lossy(derivative, region):
                extent = self.extent(derivative, region.dtype)
                format = format_of(self._options.precision, self._options.rounding, extent)
                found |= {} if format is None else {derivative: format}
        return found

    def _may_be_lossy(self, derivative: Expr, region: Region) -> bool:
        """Whether a derivative is worth a loss, and no value that the loss depends on.

        Nor is one stored that something delays to the backward pass.
        """
        if isinstance(derivative, Const):
            return False
        if isinstance(derivative, Leaf) and not self._is_factor(derivative):
            return False
        large = self.extent(derivative, region.dtype).nbytes >= self._options.min_bytes
        return large and self.latest_source(derivative) is not None

    def nbytes(self, derivative: Expr, dtype: tf.DType, format: Format | None) -> int:
        """What keeping a derivative takes.

        Args:
            derivative: An expression over forward values, no number.
            dtype: Of its arithmetic.
            format: The format that it is stored in, `None` if it is kept as it is.

        Returns:
            The bytes.
        """
        extent = self.extent(derivative, dtype)
        stored = None if format is None else format.stored_bytes(extent)
        return extent.nbytes if stored is None else stored

    def extent(self, derivative: Expr, dtype: tf.DType) -> Extent:
        """How large a derivative is.

        Args:
            derivative: An expression over forward values, no number.
            dtype: Of its arithmetic.

        Returns:
            Its size; where dimensions are unknown that of the largest value it is computed from.
        """
        values = values_of(derivative)
        nominal = self._candidates.view.nominal
        shape = broadcast([v.shape for v in values])
        elements = max(v.nbytes // v.dtype.size for v in values)
        if shape is not None and shape.count(None) < 2:
            elements = size_in_bytes(dtype, shape, nominal) // dtype.size
        return Extent(dtype, shape, elements, nominal)

    def latest_source(self, derivative: Expr) -> int | None:
        """The last op of the forward pass that a derivative waits for: see `sources`.

        Args:
            derivative: An expression over forward values.

        Returns:
            Its node id, -1 if there is none; `None` if the derivative can't be computed in the
            forward pass.
        """
        return latest_source(self._candidates, self._factors, derivative)

    def is_kept(self, derivative: Expr) -> bool:
        """Whether a derivative that is not stored otherwise is a buffer of its own.

        Args:
            derivative: An expression over forward values.

        Returns:
            Whether it lives on from the forward into the backward pass.
        """
        if isinstance(derivative, Leaf):
            value = derivative.key
            assert isinstance(value, Value)
            if value.id in self._spread or self._candidates.is_free(value):
                return False
            return self.latest_source(derivative) is not None
        return not isinstance(derivative, Const)

    def _is_factor(self, leaf: Leaf) -> bool:
        assert isinstance(leaf.key, Value)
        return self._factors[leaf.key.node.id]


def narrow_note(derivatives: Sequence[Keep], precision: str) -> str:
    """Says how derivatives are kept.

    Args:
        derivatives: All that are kept.
        precision: As in the options.

    Returns:
        The formats and how many derivatives are in each; empty if the precision is "exact".
    """
    if precision == "exact":
        return ""
    formats = Counter(keep.format for keep in derivatives)
    lossy = any(keep.format != "exact" for keep in derivatives)
    counts = ", ".join(f"{count} {name}" for name, count in formats.items()) or "none"
    return f"derivatives kept: {counts}" + (" (gradients are approximate)" if lossy else "")
