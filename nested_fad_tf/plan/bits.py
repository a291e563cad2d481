"""Booleans as bits, exactly: eight to a byte, packed and unpacked by multiplication.

Eight booleans are eight bytes of 0 or 1: one 64-bit word. Multiplied by a magic number, each of
them moves to a bit of its own in the top byte; multiplied the other way, a byte is copied into all
eight and masked (Warren, Hacker's Delight, 7-4). All of it is arithmetic on an eighth of the
elements, so that it is cheaper than the one op it spares.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from nested_fad_tf.graph.nodes import Node, Value
from nested_fad_tf.plan.maker import NodeMaker
from nested_fad_tf.plan.rewrite import RewriteBuilder

_GATHER = np.array(0x0102040810204080, np.uint64)
_TOP_BYTE = np.array(56, np.uint64)
_SPREAD = np.array(0x0101010101010101, np.uint64)
_OWN_BIT = np.array(0x8040201008040201, np.uint64)


class Steps:
    """Adds the nodes that pack and unpack one boolean.

    Args:
        builder: Where the nodes go.
        origin: The node that makes the boolean.
        count: Its number of elements divided by eight, `None` if unknown.

    Attributes:
        make: Makes the nodes.
        first_unpacked: The node that the latest `unpack` starts with.
    """

    def __init__(self, builder: RewriteBuilder, origin: Node, count: int | None) -> None:
        self.make = NodeMaker(builder, origin)
        self._count = count
        self.first_unpacked = origin

    def pack(self, value: Value) -> Value:
        """Packs a boolean right after it was made.

        Args:
            value: A bool tensor whose number of elements is a multiple of 8.

        Returns:
            uint8[count].
        """
        make = self.make
        rows = make.constant(np.array([-1, 8], np.int32), "/bits/rows")
        octets = make.reshape(value, rows, (self._count, 8), "/bits/octets")
        byte = make.cast(octets, tf.uint8, "/bits/bytes")
        word = make.bitcast(byte, tf.uint64, (self._count,), "/bits/words")
        gathered = self._binary("Mul", word, _GATHER, "/bits/gather")
        top = self._binary("RightShift", gathered, _TOP_BYTE, "/bits/top")
        return make.cast(top, tf.uint8, "/bits")

    def unpack(self, packed: Value) -> Value:
        """Unpacks in the backward pass.

        Args:
            packed: What `pack` gave.

        Returns:
            bool[count, 8].
        """
        make = self.make
        word = make.cast(packed, tf.uint64, "/unpack/words")
        self.first_unpacked = word.node
        spread = self._binary("Mul", word, _SPREAD, "/unpack/spread")
        own = self._binary("BitwiseAnd", spread, _OWN_BIT, "/unpack/mask")
        byte = make.bitcast(own, tf.uint8, (self._count, 8), "/unpack/bytes")
        return make.cast(byte, tf.bool, "/unpack/bool")

    def _binary(self, op_type: str, value: Value, operand: np.ndarray, suffix: str) -> Value:
        other = self.make.constant(operand, suffix + "/operand")
        return self.make.binary(op_type, value, other, suffix)
