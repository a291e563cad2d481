"""SavedModels on disk: read with care, written all at once or not at all."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from google.protobuf import message, text_format
from tensorflow.core.protobuf import saved_model_pb2

from nested_fad_tf.errors import SavedModelError
from nested_fad_tf.integrations.saved_model import internals, unknown

_BINARY, _TEXT, _FINGERPRINT = "saved_model.pb", "saved_model.pbtxt", "fingerprint.pb"


def read(folder: pathlib.Path) -> Any:
    """Reads the graph of a SavedModel, and makes sure that TensorFlow can load all of it.

    Args:
        folder: The SavedModel.

    Returns:
        Its `SavedModel` message.

    Raises:
        SavedModelError: If it isn't one, or is damaged.
    """
    if not folder.is_dir():
        what = "is a file, not the folder of a SavedModel" if folder.exists() else "does not exist"
        raise SavedModelError(f"{folder} {what}")
    model = _parse(folder)
    _check_fingerprint(folder)
    load(folder, "cannot be loaded")
    return model


def _parse(folder: pathlib.Path) -> Any:
    model = saved_model_pb2.SavedModel()
    try:
        if (folder / _BINARY).is_file():
            model.ParseFromString((folder / _BINARY).read_bytes())
        elif (folder / _TEXT).is_file():
            text_format.Parse((folder / _TEXT).read_text(encoding="utf-8"), model)
        else:
            raise SavedModelError(
                f"{folder} is not a SavedModel: it has no {_BINARY}"
                " (a .keras or .h5 file? save the model with model.export(FOLDER) first)"
            )
    except (message.DecodeError, text_format.ParseError, UnicodeDecodeError) as error:
        raise SavedModelError(f"{folder}: its graph is damaged, it cannot be parsed") from error
    except OSError as error:
        raise SavedModelError(f"{folder}: {error.strerror or error}") from error
    if not model.meta_graphs:
        raise SavedModelError(f"{folder}: its graph is empty or cut off; save the model again")
    return model


def _check_fingerprint(folder: pathlib.Path) -> None:
    """A graph with a flipped bit may still be a graph, of another function."""
    if not ((folder / _FINGERPRINT).is_file() and (folder / _BINARY).is_file()):
        return
    damaged = (
        f"{folder}: {_BINARY} and {_FINGERPRINT} do not belong together, one of them is damaged;"
        f" if the graph was edited on purpose, delete {_FINGERPRINT}"
    )
    try:
        recorded, actual = internals.checksums(folder)
    except Exception as error:  # the bindings raise what they like
        raise SavedModelError(damaged) from error
    if recorded != actual:
        raise SavedModelError(damaged)


def load(folder: pathlib.Path, problem: str, *, variables: bool = True) -> Any:
    """Loads a SavedModel.

    Args:
        folder: The SavedModel.
        problem: What to say if that fails.
        variables: Whether to read their values, which checks them.

    Returns:
        The restored object.

    Raises:
        SavedModelError: If TensorFlow can't load it.
    """
    options = tf.saved_model.LoadOptions(experimental_skip_checkpoint=not variables)
    try:
        return tf.saved_model.load(str(folder), options=options)
    except Exception as error:  # damaged graphs fail in many ways
        why = unknown.explained(str(error)) or type(error).__name__
        raise SavedModelError(f"{folder} {problem}: {why}") from error


def write(model: Any, source: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes a SavedModel with another graph; all other files are copied.

    Args:
        model: The graph.
        source: The SavedModel that the other files come from.
        folder: An empty folder.
    """
    shutil.copytree(source, folder, dirs_exist_ok=True)
    if (folder / _BINARY).is_file():
        (folder / _BINARY).write_bytes(model.SerializeToString(deterministic=True))
    else:
        (folder / _TEXT).write_text(text_format.MessageToString(model), encoding="utf-8")
    if (folder / _FINGERPRINT).is_file():
        (folder / _FINGERPRINT).unlink()
        internals.write_fingerprint(folder)


@contextlib.contextmanager
def replacing(destination: pathlib.Path, *, overwrite: bool) -> Iterator[pathlib.Path]:
    """Gives a folder to write to that takes its place only if all goes well.

    Args:
        destination: Where it is to be in the end.
        overwrite: Whether what is there may be replaced.

    Yields:
        An empty folder beside it.

    Raises:
        SavedModelError: If nothing can be written there.
    """
    if destination.exists():
        _check_replaceable(destination, overwrite)
    parent = destination.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=f".{destination.name}.", dir=parent)
    except OSError as error:
        raise SavedModelError(f"cannot write to {parent}: {error.strerror or error}") from error
    new = pathlib.Path(folder)
    try:
        new.chmod(0o755)  # mkdtemp gives the owner alone access
        yield new
        _move(new, destination)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _check_replaceable(destination: pathlib.Path, overwrite: bool) -> None:
    """Nothing but a SavedModel is ever replaced: a slip in a path must not cost more."""
    if not overwrite:
        raise SavedModelError(f"{destination} exists already (--overwrite replaces it)")
    model = any((destination / name).is_file() for name in (_BINARY, _TEXT))
    empty = destination.is_dir() and not any(destination.iterdir())
    if not (model or empty):
        raise SavedModelError(f"{destination} is no SavedModel, so it is not overwritten")


def _move(new: pathlib.Path, destination: pathlib.Path) -> None:
    if not destination.exists():
        new.rename(destination)
        return
    old = new.with_name(new.name + ".old")
    destination.rename(old)
    try:
        new.rename(destination)
    except OSError:
        old.rename(destination)
        raise
    shutil.rmtree(old)
