"""Sizes in bytes as text."""

from __future__ import annotations

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def unit_of(size: float) -> tuple[float, str]:
    """Chooses a unit in which a size is a handy number.

    Args:
        size: Bytes.

    Returns:
        The unit in bytes, and its name.
    """
    index = 0
    while abs(size) >= 1000 * 1024**index and index < len(_UNITS) - 1:
        index += 1
    return 1024.0**index, _UNITS[index]


def readable(size: float) -> str:
    """Formats a size with three digits or so.

    Args:
        size: Bytes.

    Returns:
        The number and its unit, as in 64.0 MiB.
    """
    unit, name = unit_of(size)
    number = size / unit
    return f"{number:.0f} {name}" if unit == 1 or number >= 100 else f"{number:.1f} {name}"


def ratio(before: float, after: float) -> str:
    """Says how two sizes compare.

    Args:
        before: Bytes.
        after: Bytes.

    Returns:
        As in 2.33x less; empty where there is nothing to compare.
    """
    if before <= 0 or after <= 0 or before == after:
        return ""
    return f"{before / after:.2f}x less" if before > after else f"{after / before:.2f}x more"
