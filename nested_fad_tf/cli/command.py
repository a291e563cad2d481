"""What a subcommand is: a name, flags of its own, and a function that runs it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from absl import flags


class UsageError(Exception):
    """The command line asks for something that makes no sense; ends with exit status 2."""


@dataclasses.dataclass(frozen=True)
class Command:
    """A subcommand of `nested-fad-tf`.

    Attributes:
        name: What the user types.
        summary: One line for the list of commands.
        description: A paragraph for the command's own --help.
        define_flags: Adds the command's flags to an empty collection.
        run: Does the work; takes the flags' values by name.
        examples: Command lines to show in --help, without the program's name.
    """

    name: str
    summary: str
    description: str
    define_flags: Callable[[flags.FlagValues], None]
    run: Callable[[Mapping[str, Any]], None]
    examples: tuple[str, ...] = ()
