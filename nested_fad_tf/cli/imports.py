"""The flag --import: what a SavedModel needs beside TensorFlow, made known before it is loaded."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from absl import flags

from nested_fad_tf.errors import SavedModelError

_FLAG = "import"
_LIBRARY = ".so"


def define(values: flags.FlagValues) -> None:
    """Adds --import.

    Args:
        values: The command's flags.
    """
    flags.DEFINE_list(
        _FLAG,
        [],
        "Python modules to import before a model is loaded, commas between them: those that define"
        " its custom ops and types, such as tensorflow_text. A file of ops, as tf.load_op_library"
        f" takes it, is told by its ending {_LIBRARY}.",
        flag_values=values,
    )


def run(names: Iterable[str]) -> None:
    """Imports what --import names; TensorFlow has been started by then.

    Args:
        names: The flag's value.

    Raises:
        SavedModelError: If one of them can't be imported.
    """
    for name in filter(None, map(str.strip, names)):
        try:
            _import(name)
        except Exception as error:  # modules raise what they like while they are imported
            lines = str(error).strip().splitlines() or [type(error).__name__]
            hint = ""
            if isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]:
                hint = "; is it installed? (of a module of your own, put the folder in PYTHONPATH)"
            raise SavedModelError(f"--{_FLAG}={name}: {lines[0]}{hint}") from error


def _import(name: str) -> None:
    if name.endswith(_LIBRARY):
        import tensorflow as tf

        tf.load_op_library(name)
    else:
        importlib.import_module(name)
