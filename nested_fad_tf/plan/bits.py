"""Booleans as bits, exactly: eight to a byte, packed and unpacked by multiplication.

Eight booleans are eight bytes of 0 or 1: one 64-bit word. Multiplied by a magic number, each of
them moves to a bit of its own in the top byte; multiplied the other way, a byte is copied into all
eight and masked (Warren, Hacker's Delight, 7-4). All of it is arithmetic on an eighth of the
elements, so that it is cheaper than the one op it spares.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import numpy as np
import tensorflow as tf

from nested_fad_tf.graph.nodes import Value
from nested_fad_tf.graph.sizes import Shape
from nested_fad_tf.plan.maker import NodeMaker
from nested_fad_tf.plan.storage import Extent

_IN_A_BYTE = 8
_GATHER = np.array(0x0102040810204080, np.uint64)
_TOP_BYTE = np.array(56, np.uint64)
_SPREAD = np.array(0x0101010101010101, np.uint64)
_OWN_BIT = np.array(0x8040201008040201, np.uint64)


@dataclasses.dataclass(frozen=True)
class Bits:
    """One bit for each boolean."""

    name: ClassVar[str] = "bits"
    loss: ClassVar[str] = ""
    # All of it works on an eighth of the elements.
    passes: ClassVar[int] = 0

    def stored_bytes(self, extent: Extent) -> int | None:
        """What a tensor takes: see `Format`. The number of its elements must be known to fit."""
        if extent.dtype != tf.bool or not fits(extent.shape):
            return None
        return -(-extent.nbytes // _IN_A_BYTE)

    def pack(self, make: NodeMaker, value: Value) -> tuple[Value, ...]:
        """Stores booleans: see `Format`."""
        count = _octets(value)
        rows = make.constant(np.array([-1, _IN_A_BYTE], np.int32), "/bits/rows")
        octets = make.reshape(value, rows, (count, _IN_A_BYTE), "/bits/octets")
        byte = make.cast(octets, tf.uint8, "/bits/bytes")
        word = make.bitcast(byte, tf.uint64, (count,), "/bits/words")
        gathered = _binary(make, "Mul", word, _GATHER, "/bits/gather")
        top = _binary(make, "RightShift", gathered, _TOP_BYTE, "/bits/top")
        return (make.cast(top, tf.uint8, "/bits"),)

    def unpack(self, make: NodeMaker, parts: tuple[Value, ...], value: Value) -> Value:
        """Brings them back: see `Format`. Of `value` only the shape matters."""
        (packed,) = parts
        word = make.cast(packed, tf.uint64, "/unpack/words")
        spread = _binary(make, "Mul", word, _SPREAD, "/unpack/spread")
        own = _binary(make, "BitwiseAnd", spread, _OWN_BIT, "/unpack/mask")
        byte = make.bitcast(own, tf.uint8, (_octets(value), _IN_A_BYTE), "/unpack/bytes")
        boolean = make.cast(byte, tf.bool, "/unpack/bool")
        return make.reshape(boolean, make.shape_of(value, value), value.shape, "/unpack")


BITS = Bits()


def fits(shape: Shape | None) -> bool:
    """Whether booleans can be kept as bits.

    Args:
        shape: Their shape, as far as it is known.

    Returns:
        Whether there are whole bytes of them, whatever unknown dimensions turn out to be.
    """
    return shape is not None and math.prod(d for d in shape if d is not None) % _IN_A_BYTE == 0


def _octets(value: Value) -> int | None:
    return value.nbytes // value.dtype.size // _IN_A_BYTE if value.static else None


def _binary(make: NodeMaker, op_type: str, value: Value, operand: np.ndarray, suffix: str) -> Value:
    return make.binary(op_type, value, make.constant(operand, suffix + "/operand"), suffix)
