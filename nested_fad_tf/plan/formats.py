"""The formats by name. Adding one is a file beside this one and a line here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import tensorflow as tf

from nested_fad_tf.plan.quantised import Quantised
from nested_fad_tf.plan.rounded import Rounded
from nested_fad_tf.plan.storage import Extent, Format


def _at_random(format: Format) -> Format:
    """The same format, rounding at random if it can."""
    if isinstance(format, Quantised):
        return dataclasses.replace(format, stochastic=True)
    return format


# For each value of `Options.precision` the formats to try, in order: the first one that can hold a
# derivative stores it.
FORMATS: Mapping[str, Sequence[Format]] = {
    "exact": (),
    "bfloat16": (Rounded(tf.bfloat16),),
    "int8": (Quantised(8),),
    "int4": (Quantised(4), Quantised(8)),
    "int2": (Quantised(2), Quantised(4), Quantised(8)),
}

# The same by `Options.rounding`.
_ROUNDED: Mapping[str, Mapping[str, Sequence[Format]]] = {
    "nearest": FORMATS,
    "stochastic": {name: [_at_random(f) for f in formats] for name, formats in FORMATS.items()},
}


def format_of(precision: str, rounding: str, extent: Extent) -> Format | None:
    """The format that stores a tensor.

    Args:
        precision: As in the options.
        rounding: As in the options.
        extent: How large the tensor is.

    Returns:
        The first one that can hold it and takes fewer bytes; `None` if there is none.
    """
    for format in _ROUNDED[rounding][precision]:
        nbytes = format.stored_bytes(extent)
        if nbytes is not None and nbytes < extent.nbytes:
            return format
    return None
