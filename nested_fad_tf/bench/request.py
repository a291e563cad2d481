"""What a module that runs in a process of its own is asked for on its command line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any


def parse(module: str, function: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Reads the arguments of a function from `--json`.

    Args:
        module: The module that is run, for usage messages.
        function: The function's name, for the same.
        arguments: Command-line arguments without the program's name.

    Returns:
        The function's arguments, by name.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    parser.add_argument(
        "--json", required=True, help=f"arguments of {function}(), as a JSON object"
    )
    return json.loads(parser.parse_args(arguments).json)
