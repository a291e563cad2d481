"""What TensorFlow says when a SavedModel needs ops or types that no imported package defines."""

from __future__ import annotations

import re

_OP = re.compile(r"Op type not registered '([^']+)'")
_TYPE = re.compile(r"not (?:been )?registered")
# Packages that SavedModels need most often, by how the names of their ops begin.
_PACKAGES = {
    "TFText>": "tensorflow_text",
    "Sentencepiece": "tensorflow_text",
    "Addons>": "tensorflow_addons",
    "SimpleML": "tensorflow_decision_forests",
}


def explained(message: str) -> str:
    """Says in one line why a SavedModel can't be loaded, and what to import if that is all.

    Args:
        message: What TensorFlow says.

    Returns:
        Its first line; where something isn't registered, also what to do about it.
    """
    line = (message.strip().splitlines() or [""])[0]
    if found := _OP.search(message):
        op = found[1]
        package = next((p for start, p in _PACKAGES.items() if op.startswith(start)), None)
        what = package or "the package that defines it"
        line = f"the op {op!r} is not registered; import {what} before"
    elif _TYPE.search(message):
        package = None
        line = line.rstrip(".")
    else:
        return line
    return f"{line} (on the command line: --import={package or 'PACKAGE'})"
