"""Reading TOML files, with errors that name the file."""

from __future__ import annotations

import tomllib
from importlib.resources.abc import Traversable
from typing import Any

from nested_fad_tf.errors import RewriteError


def read(file: Traversable, problem: type[RewriteError]) -> dict[str, Any]:
    """Reads a TOML file.

    Args:
        file: The file, on disk or inside the package.
        problem: What to raise.

    Returns:
        Its contents.

    Raises:
        RewriteError: As `problem`: if the file can't be read or isn't TOML.
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise problem(f"cannot read {file}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise problem(f"{file} is not valid TOML: {error}") from error
