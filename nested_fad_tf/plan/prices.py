"""Seconds that it takes to compute something again on a kind of device, and what these are worth.

Measured by `nested-fad-tf bench --calibrate`, or one of the defaults in configs/costs/. A file says
how many seconds an op takes for each byte that it moves, by class of op and by size (what fits into
a cache is faster), how many a unit of heavier work, and at which rate seconds are exchanged for
bytes. The planner sees bytes only: one currency for what is kept and for what is computed again.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from importlib.resources.abc import Traversable
from typing import Any

from nested_fad_tf import toml_files
from nested_fad_tf.errors import CostsError
from nested_fad_tf.ops.entry import Cost
from nested_fad_tf.ops.heavy import Kind

_TABLE = "costs"


@dataclasses.dataclass(frozen=True)
class Prices:
    """Seconds that ops take on a kind of device, and what a second is worth in bytes.

    Attributes:
        device: The kind of device: "CPU" or "GPU".
        source: Where the numbers come from.
        bytes_per_second: What a second of a step is worth in bytes of its peak; what
            `Options.tradeoff` multiplies.
        sizes: Bytes of the largest tensor of an op for which there are seconds, rising.
        apart: Seconds for each of those bytes at each size, of an op that runs by itself.
        fused: The same of one in a compiled group, where reading and writing are shared.
        work: Seconds for each unit of a heavy op's work.
        write_out: Seconds for each byte of a value that a compiled group writes out and would
            otherwise hold in registers.
    """

    device: str
    source: str
    bytes_per_second: float
    sizes: tuple[int, ...]
    apart: Mapping[Cost, tuple[float, ...]]
    fused: Mapping[Cost, tuple[float, ...]]
    work: Mapping[Kind, float]
    write_out: float

    def moving(self, cost: Cost, nbytes: float, *, fused: bool) -> float:
        """The price of an element-wise or layout op.

        Args:
            cost: Its class.
            nbytes: Bytes of the largest tensor that it reads or makes.
            fused: Whether it is in a compiled group.

        Returns:
            The price in bytes.
        """
        return self.rate(cost, nbytes, fused=fused) * nbytes

    def rate(self, cost: Cost, nbytes: float, *, fused: bool) -> float:
        """The same for each of those bytes; the arguments are those of `moving`."""
        seconds = (self.fused if fused else self.apart)[cost]
        return _between(self.sizes, seconds, nbytes) * self.bytes_per_second

    def working(self, kind: Kind, units: float) -> float:
        """The price of a heavy op.

        Args:
            kind: What its work is counted in.
            units: Its work.

        Returns:
            The price in bytes.
        """
        return self.work[kind] * self.bytes_per_second * units

    @property
    def kept_by_group(self) -> float:
        """What a byte costs that a compiled group writes out to be kept: itself and the writing."""
        return 1.0 + self.write_out * self.bytes_per_second

    @classmethod
    def from_file(cls, file: Traversable) -> Prices:
        """Reads prices from the [costs] table of a TOML file.

        Args:
            file: The file, on disk or inside the package.

        Returns:
            The prices.

        Raises:
            CostsError: If it can't be read, or something in it is missing or makes no sense.
        """
        document = toml_files.read(file, CostsError)
        try:
            return _parse(document)
        except CostsError as error:
            raise CostsError(f"{file}: {error}") from error

    def to_toml(self) -> str:
        """The file that `from_file` reads."""
        lines = [
            f"[{_TABLE}]",
            f"device = {_quoted(self.device)}",
            f"source = {_quoted(self.source)}",
            f"bytes_per_second = {self.bytes_per_second!r}",
            f"sizes = {list(self.sizes)!r}",
            f"write_out = {self.write_out!r}",
        ]
        for name, table in (("apart", self.apart), ("fused", self.fused)):
            lines += ["", f"[{_TABLE}.{name}]"]
            lines += [f"{cost.value} = {list(table[cost])!r}" for cost in Cost]
        lines += ["", f"[{_TABLE}.work]"]
        lines += [f"{kind.value} = {self.work[kind]!r}" for kind in Kind]
        return "\n".join(lines) + "\n"


def _between(sizes: Sequence[int], values: Sequence[float], size: float) -> float:
    """The value at a size: by the logarithm of sizes between two, and constant outside."""
    after = bisect.bisect_right(sizes, size)
    if after in (0, len(sizes)):
        return values[min(after, len(sizes) - 1)]
    low, high = sizes[after - 1], sizes[after]
    share = math.log(size / low) / math.log(high / low)
    return values[after - 1] + share * (values[after] - values[after - 1])


def _parse(document: Mapping[str, Any]) -> Prices:
    table = _entry(document, _TABLE, _is_table, "a table")
    sizes = _entry(table, "sizes", _is_rising, "rising sizes in bytes")

    def seconds(name: str) -> dict[Cost, tuple[float, ...]]:
        part = _entry(table, name, _is_table, "a table")

        def fits(found: object) -> bool:
            return (
                isinstance(found, list) and len(found) == len(sizes) and all(map(_positive, found))
            )

        what = f"{len(sizes)} positive numbers, one for each size"
        return {c: tuple(map(float, _entry(part, c.value, fits, what, name))) for c in Cost}

    work = _entry(table, "work", _is_table, "a table")
    return Prices(
        device=_entry(table, "device", _is_text, "a text"),
        source=_entry(table, "source", _is_text, "a text"),
        bytes_per_second=float(_entry(table, "bytes_per_second", _positive, "a positive number")),
        sizes=tuple(sizes),
        apart=seconds("apart"),
        fused=seconds("fused"),
        work={
            k: float(_entry(work, k.value, _positive, "a positive number", "work")) for k in Kind
        },
        write_out=float(_entry(table, "write_out", _not_negative, "a number of at least 0")),
    )


def _entry(
    table: Mapping[str, Any], name: str, fits: Callable[[object], bool], what: str, within: str = ""
) -> Any:
    """An entry of a table, or an error that says what is wrong with it."""
    path = ".".join(part for part in (within, name) if part)
    if name not in table:
        raise CostsError(f"{path} is missing")
    if not fits(table[name]):
        raise CostsError(f"{path} is {table[name]!r}; allowed: {what}")
    return table[name]


def _is_table(found: object) -> bool:
    return isinstance(found, dict)


def _is_text(found: object) -> bool:
    return isinstance(found, str)


def _is_rising(found: object) -> bool:
    if not (isinstance(found, list) and found and all(type(size) is int for size in found)):
        return False
    return found[0] > 0 and all(a < b for a, b in itertools.pairwise(found))


def _not_negative(found: object) -> bool:
    number = isinstance(found, int | float) and not isinstance(found, bool)
    return number and math.isfinite(found) and found >= 0  # type: ignore[arg-type,operator]


def _positive(found: object) -> bool:
    return _not_negative(found) and found > 0  # type: ignore[operator]


def _quoted(text: str) -> str:
    """A TOML string; what is not printable is left out."""
    plain = "".join(c for c in text if c.isprintable())
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'
