"""Flags of the `bench` command for what it does instead of comparing strategies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from absl import flags

from nested_fad_tf import amounts
from nested_fad_tf.cli.command import UsageError

# What is measured when the user doesn't say; nothing in a sweep, which is planned.
_WHAT = ("memory", "time")


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags.

    Args:
        values: The command's flags.
    """
    flags.DEFINE_bool(
        "calibrate",
        False,
        "Instead of models, measure what ops take on this machine's device (one to two minutes, "
        "with nothing else running). Later plans on this machine go by it.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "sweep",
        False,
        "Instead of strategies, compare values of Options.tradeoff: predicted peak and time of "
        "what is computed again; with --what=memory,time as measured, too.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "memory_limit",
        None,
        "Instead of what a step needs, find the largest batch that a process of this size, such as "
        '"3GiB", trains with. Each batch runs in a process that really runs out; Linux, CPU.',
        flag_values=values,
    )


def measured(values: Mapping[str, Any]) -> list[str]:
    """What --what says, or stands for if it isn't given.

    Args:
        values: The values of all flags.

    Returns:
        Names of what to measure, not checked yet.
    """
    if values["what"] is not None:
        return list(values["what"])
    return [] if values["sweep"] else list(_WHAT)


def check(values: Mapping[str, Any], what: list[str]) -> None:
    """Refuses flags that make no sense together.

    Args:
        values: The values of all flags.
        what: What is to be measured.

    Raises:
        UsageError: If there are any.
    """
    modes = [name for name in ("calibrate", "sweep", "memory_limit") if values[name]]
    if len(modes) > 1:
        named = " and ".join(f"--{name}" for name in modes)
        raise UsageError(f"{named} are different things: run one after the other")
    for name in ("calibrate", "memory_limit"):
        if values[name] and values["plot"]:
            raise UsageError(f"--{name} draws nothing: leave out --plot")
    if values["memory_limit"] and values["what"]:
        raise UsageError("--memory_limit measures batches alone: leave out --what")
    if values["sweep"] and (values["strategies"] != ["auto"] or values["peers"]):
        raise UsageError("--sweep is of strategy auto: leave out --strategies and --peers")
    if values["sweep"] and (other := [name for name in what if name not in _WHAT]):
        raise UsageError(f"--sweep measures {', '.join(_WHAT)}, not {', '.join(other)}")


def memory_limit(text: str | None) -> int | None:
    """The bytes that --memory_limit says.

    Args:
        text: The flag's value.

    Returns:
        The bytes; `None` if it isn't given.

    Raises:
        UsageError: If it is no amount.
    """
    if text is None:
        return None
    number = amounts.bytes_in(text)
    if number is None:
        raise UsageError(f'--memory_limit={text}: expected an amount such as "3GiB" or "800MB"')
    return number
