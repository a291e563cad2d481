"""Asking modules that run in a process of their own, and reading what they are asked for."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from nested_fad_tf.report import process


class FailedError(RuntimeError):
    """A process that was asked failed.

    Attributes:
        status: Its exit status; negative if a signal ended it.
        errors: The end of what it wrote to stderr.
    """

    def __init__(self, message: str, status: int, errors: str) -> None:
        """An error whose message has what the process said last, and then all of it."""
        lines = errors.strip().splitlines() or [f"status {status}"]
        super().__init__("\n".join([f"{message}: {lines[-1]}", *lines]))
        self.status = status
        self.errors = errors


def ask(module: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Runs a module in a process of its own, where resident sets are exact.

    Args:
        module: The module's name; it finds modules where this process does.
        arguments: What its `parse` is to give.

    Returns:
        The JSON object on the last line that it prints.

    Raises:
        FailedError: If it fails.
    """
    result = subprocess.run(
        [sys.executable, "-m", module, "--json", json.dumps(arguments)],
        env={**os.environ, **process.EXACT_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        asked = ", ".join(f"{name}={value}" for name, value in arguments.items())
        message = f"{module} failed ({asked})"
        raise FailedError(message, result.returncode, result.stderr[-2000:])
    return json.loads(result.stdout.splitlines()[-1])


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
