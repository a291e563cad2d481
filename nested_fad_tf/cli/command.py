"""What a subcommand is: a name, arguments and flags of its own, and a function that runs it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from absl import flags


class UsageError(Exception):
    """The command line asks for something that makes no sense; ends with exit status 2."""


@dataclasses.dataclass(frozen=True)
class Positional:
    """An argument that is told by its place.

    Attributes:
        name: What --help calls it, in capitals; `run` finds it under the same name in small ones.
        help: A line for --help.
        optional: Whether it may be left out, with all that follow; it is None then.
    """

    name: str
    help: str
    optional: bool = False

    @property
    def key(self) -> str:
        """Where `run` finds the value."""
        return self.name.lower()


@dataclasses.dataclass(frozen=True)
class Command:
    """A subcommand of `nested-fad-tf`.

    Attributes:
        name: What the user types.
        summary: One line for the list of commands.
        description: Paragraphs for the command's own --help, blank lines between them.
        define_flags: Adds the command's flags to an empty collection.
        run: Does the work; takes the values of arguments and flags by name.
        examples: Command lines to show in --help, without the program's name.
        positionals: Its arguments, optional ones last.
    """

    name: str
    summary: str
    description: str
    define_flags: Callable[[flags.FlagValues], None]
    run: Callable[[Mapping[str, Any]], None]
    examples: tuple[str, ...] = ()
    positionals: tuple[Positional, ...] = ()

    def place(self, given: list[str]) -> dict[str, str | None]:
        """Tells what each argument stands for.

        Args:
            given: The arguments that are no flags.

        Returns:
            The values of `positionals`, by key.

        Raises:
            UsageError: If there are too few or too many.
        """
        names = [p.name for p in self.positionals]
        if extra := given[len(names) :]:
            takes = f"takes {' '.join(names)} and flags" if names else "takes flags only"
            raise UsageError(f"{takes}, not {' '.join(map(repr, extra))}")
        if missing := [p.name for p in self.positionals[len(given) :] if not p.optional]:
            verb = "is" if len(missing) == 1 else "are"
            raise UsageError(f"{' and '.join(missing)} {verb} missing")
        padded = [*given, *[None] * (len(names) - len(given))]
        return {p.key: value for p, value in zip(self.positionals, padded, strict=True)}
