"""The formats by name. Adding one is a file beside this one and a line here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf

from nested_fad_tf.plan.quantised import Quantised
from nested_fad_tf.plan.rounded import Rounded
from nested_fad_tf.plan.storage import Extent, Format

# For each value of `Options.precision` the formats to try, in order: the first one that can hold a
# derivative stores it.
FORMATS: Mapping[str, Sequence[Format]] = {
    "exact": (),
    "bfloat16": (Rounded(tf.bfloat16),),
    "int8": (Quantised(8),),
    "int4": (Quantised(4), Quantised(8)),
    "int2": (Quantised(2), Quantised(4), Quantised(8)),
}


def format_of(precision: str, extent: Extent) -> Format | None:
    """The format that stores a derivative.

    Args:
        precision: As in the options.
        extent: How large the derivative is.

    Returns:
        The first one that can hold it and takes fewer bytes; `None` if there is none.
    """
    for format in FORMATS[precision]:
        nbytes = format.stored_bytes(extent)
        if nbytes is not None and nbytes < extent.nbytes:
            return format
    return None
