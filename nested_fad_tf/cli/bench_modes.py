"""Flags of the `bench` command for what it does instead of comparing strategies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from absl import flags

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
    if values["calibrate"] and values["sweep"]:
        raise UsageError("--calibrate and --sweep are two things: run one after the other")
    if values["calibrate"] and values["plot"]:
        raise UsageError("--calibrate draws nothing: leave out --plot")
    if values["sweep"] and (values["strategies"] != ["auto"] or values["peers"]):
        raise UsageError("--sweep is of strategy auto: leave out --strategies and --peers")
    if values["sweep"] and (other := [name for name in what if name not in _WHAT]):
        raise UsageError(f"--sweep measures {', '.join(_WHAT)}, not {', '.join(other)}")
