"""Writes results to a JSON file: all of it or nothing."""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
from typing import Any


def write(path: pathlib.Path, content: Any) -> None:
    """Writes a file that appears only once it is complete.

    Args:
        path: The file; replaced if it exists.
        content: What JSON can hold.
    """
    text = json.dumps(content, indent=2)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text + "\n")
    # Temporary files are private; a result is as readable as any file its user makes.
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(name, 0o666 & ~mask)
    os.replace(name, path)
