"""Names of the versions of a step; read from the command line before TensorFlow is imported.

A version is "plain", a peer of `nested_fad_tf.bench.catalog`, or a rewrite: a strategy, with other
options behind it as in "auto:budget=0.3" or "forward_ad:precision=int4:min_bytes=1024".
"""

from __future__ import annotations

import tomllib
from typing import Any

from nested_fad_tf.bench import catalog
from nested_fad_tf.errors import OptionsError
from nested_fad_tf.options import Options

PLAIN = "plain"


def is_rewrite(version: str) -> bool:
    """Whether a version is made by this package.

    Args:
        version: Its name.
    """
    return version != PLAIN and version not in catalog.PEERS


def options(version: str, fuse: str = "auto") -> Options:
    """The options of a rewrite.

    Args:
        version: Its name.
        fuse: How its groups run, if the name doesn't say.

    Returns:
        The options; a rewrite that fails raises, for a benchmark must not measure the fallback.

    Raises:
        OptionsError: If there is no such strategy or option, or a value is not allowed.

    Examples:
        >>> options("auto:budget=0.3").budget
        0.3
    """
    strategy, *settings = version.split(":")
    values: dict[str, Any] = {"fuse": fuse, "on_error": "raise"}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise OptionsError(f"{version!r}: {setting!r} is not of the form option=value")
        values[name] = _value(value)
    return Options.from_dict({"strategy": strategy, **values}, source=repr(version))


def _value(text: str) -> Any:
    """A number or a boolean as TOML writes them; else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
