"""Names with settings behind them, as in "auto:budget=0.3" and "bert:batch=32:length=256"."""

from __future__ import annotations

import tomllib
from typing import Any


def split(text: str) -> tuple[str, dict[str, Any]]:
    """Takes a name and its settings apart.

    Args:
        text: The name; settings come behind a colon each, their values as TOML writes numbers and
            booleans; anything else is a string.

    Returns:
        The name, and the values by the settings' names.

    Raises:
        ValueError: If a setting has no value.

    Examples:
        >>> split("forward_ad:precision=int4:min_bytes=1024")
        ('forward_ad', {'precision': 'int4', 'min_bytes': 1024})
    """
    name, *settings = text.split(":")
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"{text!r}: {setting!r} is not of the form name=value")
        values[key] = _value(value)
    return name, values


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
