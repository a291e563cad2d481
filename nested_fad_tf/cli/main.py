"""Picks the subcommand, parses its flags, runs it, and turns errors into exit statuses.

Flags are absl's, but every subcommand has a collection of its own rather than the global one:
importing TensorFlow and Keras adds flags to that, and `train --help` should list train's.
"""

from __future__ import annotations

import difflib
import sys
import textwrap
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from absl import app, flags

from nested_fad_tf.cli import bench, compare, inspect, quiet, rewrite, train
from nested_fad_tf.cli.command import Command, UsageError
from nested_fad_tf.errors import RewriteError
from nested_fad_tf.examples.example import MissingPackageError

PROGRAM = "nested-fad-tf"
COMMANDS: tuple[Command, ...] = (
    train.COMMAND,
    bench.COMMAND,
    inspect.COMMAND,
    rewrite.COMMAND,
    compare.COMMAND,
)

_OK, _FAILED, _BAD_USAGE, _INTERRUPTED = 0, 1, 2, 130
# Errors whose message is written for users.
_EXPECTED = (RewriteError, MissingPackageError, OSError)
_HELP = ("--help", "-help", "-h", "--helpfull", "help")


def run() -> NoReturn:
    """Runs the program as an absl application and exits; the console script calls this."""
    # absl's own parser knows nothing of subcommands: hand everything on to main().
    app.run(main, flags_parser=_leave_unparsed)


def main(argv: Sequence[str]) -> int:
    """Runs one subcommand.

    Args:
        argv: The command line, the program's name first.

    Returns:
        The exit status: 0 done, 1 an error, 2 bad usage.
    """
    arguments = list(argv[1:])
    if not arguments or arguments[0] in _HELP:
        print(_program_help(), file=sys.stdout if arguments else sys.stderr)
        return _OK if arguments else _BAD_USAGE
    command = {command.name: command for command in COMMANDS}.get(arguments[0])
    if command is None:
        return _complain(_unknown_command(arguments[0]))
    if any(argument in _HELP[:-1] for argument in arguments[1:]):
        print(_command_help(command))
        return _OK
    values = _flag_values(command)
    try:
        placed = command.place(values([command.name, *arguments[1:]])[1:])
    except (flags.Error, UsageError) as error:
        return _complain(f"{command.name}: {error}")
    return _execute(command, {**values.flag_values_dict(), **placed})


def _execute(command: Command, values: Mapping[str, Any]) -> int:
    """Runs a command; an error becomes one line, or a stack where the user asked for it."""
    verbose = values["verbosity"] > 0
    quiet.set_verbosity(verbose)
    try:
        command.run(values)
    except UsageError as error:
        return _complain(f"{command.name}: {error}")
    except KeyboardInterrupt:
        print(f"{PROGRAM} {command.name}: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except Exception as error:
        if verbose:
            traceback.print_exc()
        print(f"{PROGRAM} {command.name}: {_one_line(error, verbose)}", file=sys.stderr)
        return _FAILED
    return _OK


def _one_line(error: Exception, verbose: bool) -> str:
    """Returns the first line of an error; one that was not foreseen also names its type."""
    message = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, _EXPECTED):
        return message
    hint = "" if verbose else " (--verbosity=1 shows the stack)"
    return f"{type(error).__name__}: {message}{hint}"


def _flag_values(command: Command) -> flags.FlagValues:
    """Returns the flags of a command with their defaults."""
    values = flags.FlagValues()
    values.set_gnu_getopt()  # flags may follow arguments
    command.define_flags(values)
    flags.DEFINE_integer(
        "verbosity",
        0,
        "1 shows TensorFlow's messages, and the stack of an error.",
        flag_values=values,
    )
    return values


def _complain(message: str) -> int:
    """Prints a usage error and where help is; returns the exit status for it."""
    print(f"{PROGRAM} {message}; see {PROGRAM} --help", file=sys.stderr)
    return _BAD_USAGE


def _unknown_command(name: str) -> str:
    """Returns the message for a command that doesn't exist."""
    names = [command.name for command in COMMANDS]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"has no command {name!r}{hint}; commands: {', '.join(names)}"


def _program_help() -> str:
    """Returns what --help prints without a command."""
    width = max(len(command.name) for command in COMMANDS)
    rows = "\n".join(f"  {command.name:<{width}}  {command.summary}" for command in COMMANDS)
    return (
        f"{PROGRAM}: train TensorFlow models in less memory, with the same gradients.\n\n"
        f"usage: {PROGRAM} COMMAND [ARGUMENT ...] [--flag=value ...]\n\ncommands:\n{rows}\n\n"
        f"{PROGRAM} COMMAND --help shows a command's arguments and flags.\n"
        "exit status: 0 done, 1 an error (one line on stderr), 2 bad usage"
    )


def _command_help(command: Command) -> str:
    """Returns what COMMAND --help prints."""
    values = _flag_values(command)
    # In the order they were defined: the first is the one most users want.
    listing = "\n".join(_flag_help(values[name]) for name in values)
    text = "\n\n".join(textwrap.fill(p, 88) for p in command.description.split("\n\n"))
    arguments = "\n".join(f"  {p.name}\n      {p.help}" for p in command.positionals)
    names = [f"[{p.name}]" if p.optional else p.name for p in command.positionals]
    usage = " ".join([PROGRAM, command.name, *names, "[--flag=value ...]"])
    help_text = f"usage: {usage}\n\n{text}\n"
    if arguments:
        help_text += f"\narguments:\n{arguments}\n"
    help_text += f"\nflags:\n{listing}"
    if command.examples:
        lines = "\n".join(f"  {PROGRAM} {example}" for example in command.examples)
        help_text += f"\n\nexamples:\n{lines}"
    return help_text


def _flag_help(flag: flags.Flag) -> str:
    """Returns a flag's lines of help: its name and default, then what it does."""
    value = ",".join(flag.default) if isinstance(flag.default, list) else flag.default
    default = "" if value in (None, "") else f" (default: {value})"
    lines = (flag.help or "").splitlines()
    text = "\n".join(textwrap.indent(textwrap.fill(line.strip(), 82), " " * 6) for line in lines)
    return f"  --{flag.name}{default}\n{text}"


def _leave_unparsed(argv: Sequence[str]) -> list[str]:
    """Stands in for absl's parser: marks the global flags as parsed, touches no argument."""
    flags.FLAGS.mark_as_parsed()
    return list(argv)
