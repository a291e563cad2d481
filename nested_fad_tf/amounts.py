"""Amounts of memory as people write them."""

from __future__ import annotations

import math
import re


def bytes_in(text: str) -> int | None:
    """The bytes that a text such as "6GiB" or "800 MB" stands for.

    Args:
        text: A number, and a unit or none.

    Returns:
        The bytes, rounded up; `None` if it is no such text, or nothing.

    Examples:
        >>> bytes_in("1.5KiB")
        1536
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text, re.IGNORECASE)
    if not match:
        return None
    return math.ceil(float(match[1]) * _unit(match[2], binary=bool(match[3]))) or None


def _unit(prefix: str, *, binary: bool) -> int:
    power = " kmgt".index(prefix.lower() or " ")
    return (1024 if binary else 1000) ** power
