"""Writes result files: all of a file or nothing."""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
from typing import Any


def write(path: pathlib.Path, content: bytes) -> None:
    """Writes a file that appears only once it is complete.

    Args:
        path: The file; replaced if it exists.
        content: What is to be in it.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        # Temporary files are private; a result is as readable as any file its user makes.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes a JSON file that appears only once it is complete.

    Args:
        path: The file; replaced if it exists.
        content: What JSON can hold.
    """
    write(path, f"{json.dumps(content, indent=2)}\n".encode())
