"""Checks on flag values that several commands share."""

from __future__ import annotations

import difflib
import importlib.util
import pathlib
from collections.abc import Iterable

from nested_fad_tf.cli.command import UsageError
from nested_fad_tf.errors import SavedModelError
from nested_fad_tf.options import Options, preset_names


def one_of(flag: str, value: str, known: Iterable[str]) -> str:
    """Returns the value if it is known.

    Args:
        flag: The flag's name, for the message.
        value: What the user gave.
        known: What is allowed.

    Raises:
        UsageError: If it isn't, with the allowed values and a suggestion.
    """
    names = list(known)
    if value not in names:
        close = difflib.get_close_matches(value, names, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise UsageError(f"--{flag}={value}{hint}; known: {', '.join(names)}")
    return value


def options(preset: str) -> Options:
    """Returns the options of --preset: a preset's name, or the path of a TOML file.

    Args:
        preset: What the user gave.

    Raises:
        UsageError: If it is neither.
    """
    if preset.endswith(".toml"):
        return Options.from_file(preset)
    return Options.preset(one_of("preset", preset, preset_names()))


def writable(flag: str, path: str | None) -> pathlib.Path | None:
    """Returns the path of a file that is to be written at the end.

    Args:
        flag: The flag's name, for the message.
        path: What the user gave, or None.

    Raises:
        UsageError: If its folder doesn't exist. Better now than after minutes of training.
    """
    if path is None:
        return None
    file = pathlib.Path(path)
    if file.is_dir() or not file.parent.is_dir():
        what = "is a folder" if file.is_dir() else f"folder {file.parent} does not exist"
        raise UsageError(f"--{flag}={path}: {what}")
    return file


def local(path: str) -> pathlib.Path:
    """Returns the path of a file or folder on this machine.

    Args:
        path: What the user gave.

    Raises:
        SavedModelError: If it is an address.
    """
    if "://" in path:
        raise SavedModelError(f"{path} is remote; copy it, only local folders are read and written")
    return pathlib.Path(path)


def log_folder(flag: str, path: str | None) -> pathlib.Path:
    """Returns the path of a folder that is to be written to at the end, and need not exist yet.

    Args:
        flag: The flag's name, for the message.
        path: What the user gave, or None.

    Raises:
        UsageError: If it is missing, or can't be a folder.
        SavedModelError: If it is an address.
    """
    if path is None:
        raise UsageError(f"--{flag} is missing")
    return folder(flag, path)


def plot_folder(flag: str, path: str | None) -> pathlib.Path | None:
    """Returns the path of a folder for figures.

    Args:
        flag: The flag's name, for the message.
        path: What the user gave, or None.

    Raises:
        UsageError: If it can't be a folder, or nothing can be drawn here. Better now than at the
            end.
        SavedModelError: If it is an address.
    """
    if path is None:
        return None
    if not _installed("matplotlib"):
        raise UsageError(
            f"--{flag} needs matplotlib, which isn't installed: pip install 'nested-fad-tf[plots]'"
        )
    return folder(flag, path)


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # it can't be imported, and is marked so
        return False


def folder(flag: str, path: str) -> pathlib.Path:
    """Returns the path of a folder that need not exist yet.

    Args:
        flag: The flag's name, for the message.
        path: What the user gave.

    Raises:
        UsageError: If it can't be a folder.
        SavedModelError: If it is an address.
    """
    chosen = local(path)
    existing = next(p for p in (chosen.absolute(), *chosen.absolute().parents) if p.exists())
    if not existing.is_dir():
        raise UsageError(f"--{flag}={path}: {existing} is a file")
    return chosen
