"""What depends on the version of TensorFlow: the one file that knows.

The pass stands on private API: a hook behind tracing, ways of editing graphs, the loader of
SavedModels. Each file that uses some says on which versions it was checked; the tests run on all of
them (`scripts/test_versions`). On any other version nothing is rewritten and nothing private is
touched: private modules are imported through `private` when they are first used, never with this
package.

The private API that is used is the same in all supported versions. Graphs differ, which the pass
takes as they are:

- `tf.nn.gelu` is `x/2 * erfc(-x/√2)` since 2.19, `x/2 * (1 + erf(x/√2))` before.
- The gradients of some reductions take other integer ops on shapes.

"""

from __future__ import annotations

import functools
import importlib
import re
import warnings
from typing import Any

import tensorflow as tf

from nested_fad_tf.errors import UnsupportedVersionError

# The first and the last (major, minor) that are supported.
OLDEST = (2, 18)
NEWEST = (2, 21)

_REASON = "this version of TensorFlow is not supported, so nothing is rewritten"
_warned: set[str] = set()


def unsupported() -> str:
    """Why nothing is rewritten on the installed TensorFlow.

    Release candidates and nightly builds count as the version that they are to become.

    Returns:
        A sentence for a report; empty where the version is supported.
    """
    if OLDEST <= _installed() <= NEWEST:
        return ""
    oldest, newest = (".".join(map(str, version)) for version in (OLDEST, NEWEST))
    return f"{_REASON}: {tf.__version__} is installed, {oldest} to {newest} are supported"


def warn_if_unsupported() -> str:
    """Warns where the version isn't supported, once in a process.

    Returns:
        What `unsupported` says.
    """
    reason = unsupported()
    if reason and reason not in _warned:
        _warned.add(reason)
        warnings.warn(f"nested_fad_tf: {reason}", stacklevel=3)
    return reason


def check_supported() -> None:
    """Refuses to go on where the version isn't supported.

    Raises:
        UnsupportedVersionError: If it isn't.
    """
    if reason := unsupported():
        raise UnsupportedVersionError(reason)


@functools.cache
def private(module: str) -> Any:
    """A private module of TensorFlow.

    Args:
        module: Its name in `tensorflow.python`.

    Returns:
        The module.

    Raises:
        UnsupportedVersionError: If this TensorFlow has none of that name.
    """
    try:
        return importlib.import_module(f"tensorflow.python.{module}")
    except ImportError as error:
        raise UnsupportedVersionError(
            f"TensorFlow {tf.__version__} has no module tensorflow.python.{module}, which"
            " nested_fad_tf needs"
        ) from error


def op_definition(op_type: str) -> Any:
    """The definition of an op.

    Args:
        op_type: Its type.

    Returns:
        Its `OpDef`; `None` if TensorFlow has no such op.
    """
    return private("framework.op_def_registry").get(op_type)


def _installed() -> tuple[int, int]:
    """The version that is installed; (0, 0) if it is written in an unknown way."""
    found = re.match(r"(\d+)\.(\d+)", tf.__version__)
    return (int(found[1]), int(found[2])) if found else (0, 0)
