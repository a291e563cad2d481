"""Numbers as small integers, with a scale for each row.

A row's range, from its least to its greatest number and to zero, is cut into 2^bits - 1 equal
steps, and each number rounded to the nearest. The error is at most half a step, and zero is exact,
since the code of zero is a whole number: what a mask took out stays out. Rows of zeros and ones
are exact, too.

Rounding to the nearest is not unbiased: equal numbers of a row have equal errors. Rounding up with
a probability that is the part of a step by which a number is above the next lower one, is: the
expectation of what comes back is the number, and so that of a gradient which is linear in it (Chen
et al., ActNN, arXiv 2104.14129); its errors are larger by a factor of 1.4. The random numbers must
not be the program's own. They come of a generator without state, whose key is made of the tensor:
the same step on the same data rounds alike, another step does not. So that both ends of a row can
be rounded either way, a row with numbers of both signs has one step less.

If a number of a row isn't finite then neither is the row's scale, and nothing finite comes back of
the whole row. What lies within half a step of the dtype's largest number may come back infinite.

Several codes go into a byte: the last axis is cut into as many pieces, which lie over each other.
Unlike neighbours, pieces need no reshaping, so that it works for whatever dimensions are unknown.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from nested_fad_tf.graph.nodes import Value
from nested_fad_tf.graph.sizes import Shape
from nested_fad_tf.plan.maker import NodeMaker
from nested_fad_tf.plan.storage import Extent, arithmetic

_BYTE = 8
# A row is as many of the last axes as hold that many numbers: its scale and zero, 8 bytes of a
# float32, are 1/16 byte a number then. Longer rows would gain little, and an outlier spoils one.
_LEAST_ROW = 128
# How many cheap ops random numbers take as long as.
_DRAWING = 6
_PHILOX = 1


@dataclasses.dataclass(frozen=True)
class Quantised:
    """Integers of a few bits.

    Attributes:
        bits: How many: 8, 4 or 2.
        stochastic: Whether to round at random, and not to the nearest.
    """

    bits: int
    stochastic: bool = False

    @property
    def loss(self) -> str:
        """What is lost: see `Format`."""
        return "lossy, unbiased" if self.stochastic else "lossy"

    @property
    def passes(self) -> int:
        """What storing and bringing back take: see `Format`."""
        # The range of each row, the codes, and back; groups share what they read.
        return 4 + _DRAWING * self.stochastic

    @property
    def name(self) -> str:
        """What the report calls it."""
        return f"int{self.bits}"

    @property
    def levels(self) -> int:
        """How many steps a row's range is cut into: the greatest code."""
        return 2**self.bits - 1

    @property
    def _in_a_byte(self) -> int:
        return _BYTE // self.bits

    def stored_bytes(self, extent: Extent) -> int | None:
        """What a tensor takes: see `Format`. It needs a last axis that can be cut into pieces."""
        if not extent.shape:
            return None
        last = extent.shape[-1]
        if self._in_a_byte > 1 and (last is None or last % self._in_a_byte):
            return None
        rows = -(-extent.elements // max(1, extent.count(_row_axes(extent.shape))))
        return extent.elements // self._in_a_byte + 2 * rows * int(arithmetic(extent.dtype).size)

    def pack(self, make: NodeMaker, value: Value) -> tuple[Value, ...]:
        """Stores a tensor: see `Format`."""
        assert value.shape is not None
        dtype = arithmetic(value.dtype)
        wide = value if value.dtype == dtype else make.cast(value, dtype, "/wide")
        scale, zero = self._scale_and_zero(make, wide)
        steps = make.binary("DivNoNan", wide, scale, "/steps")
        # A cast cuts off: half a step more, and it rounds to the nearest; a part of one at random,
        # and it does that. What rounds up past the end would need a bit more.
        if self.stochastic:
            offset = make.binary("AddV2", _drawn(make, wide, scale), zero, "/zero_and_part")
        else:
            half = make.number(0.5, dtype, "/half")
            offset = make.binary("AddV2", zero, half, "/zero_and_half")
        shifted = make.binary("AddV2", steps, offset, "/shifted")
        end = make.number(self.levels + 0.5, dtype, "/end")
        bounded = make.binary("Minimum", shifted, end, "/bounded")
        codes = make.cast(bounded, tf.uint8, f"/{self.name}")
        return self._overlay(make, codes, value.shape), scale, zero

    def unpack(self, make: NodeMaker, parts: tuple[Value, ...], value: Value) -> Value:
        """Brings it back: see `Format`."""
        assert value.shape is not None
        packed, scale, zero = parts
        codes = self._take_apart(make, packed, value.shape)
        steps = make.binary("Sub", make.cast(codes, scale.dtype, "/codes"), zero, "/from_zero")
        wide = make.binary("Mul", steps, scale, f"/from_{self.name}")
        return wide if wide.dtype == value.dtype else make.cast(wide, value.dtype, "/narrow")

    def _scale_and_zero(self, make: NodeMaker, value: Value) -> tuple[Value, Value]:
        """The size of a step, and the code of zero: one of each a row."""
        nothing = make.number(0, value.dtype, "/nothing")
        top = make.binary("Maximum", _reduced(make, "Max", value), nothing, "/top")
        bottom = make.binary("Minimum", _reduced(make, "Min", value), nothing, "/bottom")
        part = self._part(make, top, bottom)
        # Each part of its own: the range itself may be beyond what the dtype holds.
        above = make.binary("Mul", top, part, "/above")
        below = make.binary("Mul", bottom, part, "/below")
        scale = make.binary("Sub", above, below, "/scale")
        steps = make.binary("DivNoNan", bottom, scale, "/steps_below")
        attrs = {"T": value.dtype}
        if self.stochastic:
            whole = make.add(
                "Floor", [steps], value.dtype, scale.shape, "/whole", attrs, like=scale
            )
            return scale, make.add("Neg", [whole], value.dtype, scale.shape, "/zero", attrs, scale)
        half = make.number(0.5, value.dtype, "/half")
        exact = make.binary("Sub", half, steps, "/exact_zero")
        zero = make.add("Floor", [exact], value.dtype, scale.shape, "/zero", attrs, like=scale)
        return scale, zero

    def _part(self, make: NodeMaker, top: Value, bottom: Value) -> Value:
        """What a row's range is multiplied with to give the size of a step."""
        all_steps = make.number(1 / self.levels, top.dtype, "/part")
        if not self.stochastic:
            return all_steps
        # Zero in between is a whole number of steps from both ends, so that one is lost.
        nothing = make.number(0, top.dtype, "/nothing")
        attrs = {"T": top.dtype}
        sides = [
            make.add(op_type, [end, nothing], tf.bool, end.shape, f"/{op_type}", attrs, like=end)
            for op_type, end in {"Greater": top, "Less": bottom}.items()
        ]
        both = make.add("LogicalAnd", sides, tf.bool, top.shape, "/both", {}, like=sides[0])
        fewer = make.number(1 / (self.levels - 1), top.dtype, "/fewer")
        read = [both, fewer, all_steps]
        return make.add("SelectV2", read, top.dtype, top.shape, "/part", attrs, like=top)

    def _overlay(self, make: NodeMaker, codes: Value, shape: Shape) -> Value:
        if self._in_a_byte == 1:
            return codes
        packed: Value | None = None
        for index in range(self._in_a_byte):
            piece = self._piece(make, codes, shape, index)
            if packed is None:
                packed = piece
                continue
            shift = make.number(index * self.bits, tf.uint8, f"/shift_{index}")
            moved = make.binary("LeftShift", piece, shift, f"/moved_{index}")
            last = index + 1 == self._in_a_byte
            suffix = f"/{self.name}_packed" if last else f"/packed_{index}"
            packed = make.binary("BitwiseOr", packed, moved, suffix)
        assert packed is not None
        return packed

    def _piece(self, make: NodeMaker, codes: Value, shape: Shape, index: int) -> Value:
        """One of the pieces that the last axis is cut into."""
        assert shape[-1] is not None
        width = shape[-1] // self._in_a_byte
        rest = [0] * (len(shape) - 1)
        begin = make.constant(np.array([*rest, index * width], np.int32), f"/begin_{index}")
        everything = [-1] * len(rest)
        size = make.constant(np.array([*everything, width], np.int32), f"/size_{index}")
        attrs = {"T": codes.dtype, "Index": tf.int32}
        piece = make.add(
            "Slice", [codes, begin, size], codes.dtype, (*shape[:-1], width), f"/{index}", attrs
        )
        piece.nbytes = codes.nbytes // self._in_a_byte
        return piece

    def _take_apart(self, make: NodeMaker, packed: Value, shape: Shape) -> Value:
        if self._in_a_byte == 1:
            return packed
        pieces = []
        mask = make.number(self.levels, tf.uint8, "/mask")
        for index in range(self._in_a_byte):
            piece = packed
            if index:
                shift = make.number(index * self.bits, tf.uint8, f"/shift_{index}")
                piece = make.binary("RightShift", piece, shift, f"/moved_{index}")
            if index + 1 < self._in_a_byte:
                piece = make.binary("BitwiseAnd", piece, mask, f"/{index}")
            pieces.append(piece)
        axis = make.constant(np.array(-1, np.int32), "/axis")
        attrs = {"N": len(pieces), "T": packed.dtype, "Tidx": tf.int32}
        joined = make.add("ConcatV2", [*pieces, axis], packed.dtype, shape, "/unpacked", attrs)
        joined.nbytes = packed.nbytes * self._in_a_byte
        return joined


def _drawn(make: NodeMaker, value: Value, scale: Value) -> Value:
    """Random numbers from zero to one that nothing but the tensor determines."""
    assert scale.shape is not None
    dtype = scale.dtype
    axes = make.constant(np.arange(len(scale.shape), dtype=np.int32), "/axes")
    attrs = {"T": dtype, "Tidx": tf.int32, "keep_dims": False}
    total = make.add("Sum", [scale, axes], dtype, (), "/total", attrs)
    word = tf.uint64 if dtype == tf.float64 else tf.uint32
    seed = make.cast(make.bitcast(total, word, (), "/word"), tf.uint64, "/seed")
    one = make.constant(np.array([1], np.int32), "/one")
    key = make.reshape(seed, one, (1,), "/key")
    # Tensors whose scales are alike are rounded differently.
    counter = make.constant(np.array([0, value.id], np.uint64), "/counter")
    algorithm = make.constant(np.array(_PHILOX, np.int32), "/algorithm")
    read = [make.shape_of(value, value), key, counter, algorithm]
    drawn = {"Tshape": tf.int32, "dtype": dtype}
    op_type = "StatelessRandomUniformV2"
    return make.add(op_type, read, dtype, value.shape, "/random", drawn, like=value)


def _row_axes(shape: Sequence[int | None]) -> list[int]:
    """The axes that share a scale: the last ones, until they are long enough."""
    axes: list[int] = []
    count = 1
    for axis in reversed(range(len(shape))):
        axes.insert(0, axis)
        size = shape[axis]
        if size is None or (count := count * size) >= _LEAST_ROW:
            break
    return axes


def _reduced(make: NodeMaker, op_type: str, value: Value) -> Value:
    """A row's extreme."""
    assert value.shape is not None
    axes = _row_axes(value.shape)
    shape = tuple(1 if axis in axes else dim for axis, dim in enumerate(value.shape))
    indices = make.constant(np.array(axes, np.int32), f"/{op_type}/axes")
    attrs = {"T": value.dtype, "Tidx": tf.int32, "keep_dims": True}
    return make.add(op_type, [value, indices], value.dtype, shape, f"/{op_type}", attrs)
