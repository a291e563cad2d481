"""Where prices come from: what was measured on this machine, else the defaults in configs/costs/.

`nested-fad-tf bench --calibrate` writes one file for each kind of device, into the user's cache
folder. The environment variable NESTED_FAD_TF_COSTS names another file, for all devices; if it says
"default", nothing that was measured counts.
"""

from __future__ import annotations

import functools
import os
import pathlib

import platformdirs
from absl import logging

from nested_fad_tf.errors import CostsError
from nested_fad_tf.graph import devices
from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.options import configs_folder
from nested_fad_tf.plan.prices import Prices

VARIABLE = "NESTED_FAD_TF_COSTS"
DEFAULT = "default"


def prices_for(view: GraphView) -> Prices:
    """The prices that a graph is planned with.

    Args:
        view: The graph. Most of its ops decide which kind of device counts.

    Returns:
        What was measured on this machine, or else the defaults.
    """
    return current(devices.kind_of_most(node.device for node in view.nodes))


def current(kind: str) -> Prices:
    """The prices of a kind of device.

    Args:
        kind: "CPU" or "GPU".

    Returns:
        What was measured on this machine, or else the defaults. A file that is broken is warned of,
        once.
    """
    file = file_of(kind)
    return shipped(kind) if file is None else _read(file, kind, bool(os.environ.get(VARIABLE)))


def shipped(kind: str) -> Prices:
    """The default prices of a kind of device.

    Args:
        kind: "CPU" or "GPU".

    Returns:
        What configs/costs/ says.
    """
    return _shipped(kind.lower())


def file_of(kind: str) -> pathlib.Path | None:
    """The file in which measured prices are looked for, and to which they are written.

    Args:
        kind: "CPU" or "GPU".

    Returns:
        The file, which need not exist; `None` if the environment asks for the defaults.
    """
    chosen = os.environ.get(VARIABLE, "")
    if chosen == DEFAULT:
        return None
    if chosen:
        return pathlib.Path(chosen)
    return pathlib.Path(platformdirs.user_cache_dir("nested_fad_tf")) / f"costs_{kind.lower()}.toml"


def forget() -> None:
    """Lets files be read again, after one was written."""
    _read.cache_clear()


@functools.cache
def _shipped(name: str) -> Prices:
    return Prices.from_file(configs_folder() / "costs" / f"{name}.toml")


@functools.cache
def _read(file: pathlib.Path, kind: str, asked_for: bool) -> Prices:
    """Reads a file once; it may be missing unless the user named it."""
    if not asked_for and not file.exists():
        return shipped(kind)
    try:
        return Prices.from_file(file)
    except CostsError as error:
        remedy = f"correct {VARIABLE}" if asked_for else "delete the file"
        logging.warning(
            "nested_fad_tf: %s. The default prices are used; measure again with"
            " `nested-fad-tf bench --calibrate`, or %s.",
            error,
            remedy,
        )
        return shipped(kind)
