"""Keeps TensorFlow's start-up messages from burying what the user asked for."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator

from absl import logging
from rich import console

_verbose = False


def set_verbosity(verbose: bool) -> None:
    """Decides how much TensorFlow says; has its full effect before TensorFlow is imported.

    Args:
        verbose: Whether its messages are shown.
    """
    global _verbose
    _verbose = verbose
    if verbose:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.set_verbosity(logging.ERROR)
    logging.set_stderrthreshold("error")
    warnings.filterwarnings("ignore", module=r"(tensorflow|keras)\b.*")


def start_tensorflow() -> None:
    """Imports TensorFlow and opens its devices without the messages that come with both."""
    with native_messages_held():
        import tensorflow as tf

        # One op at a time (each with all cores): the peak is then the same in every run.
        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.config.list_logical_devices()
        tf.get_logger().setLevel("INFO" if _verbose else "ERROR")


@contextlib.contextmanager
def native_messages_held() -> Iterator[None]:
    """Drops what C++ code writes to stderr in the block; Python's own messages still show.

    TensorFlow's start-up, its compiler and its profiler write there whatever the log level is, some
    of it as errors ("failed call to cuInit" on a machine without a GPU), so only closing the file
    descriptor to them helps. For short blocks: if the process dies in one, its last words are lost.
    """
    if _verbose:
        yield
        return
    python_stderr = sys.stderr
    python_stderr.flush()
    saved = os.dup(2)
    with open(os.devnull, "wb") as nowhere, os.fdopen(os.dup(saved), "w", buffering=1) as stream:
        os.dup2(nowhere.fileno(), 2)
        sys.stderr = stream
        try:
            yield
        finally:
            sys.stderr = python_stderr
            os.dup2(saved, 2)
            os.close(saved)


def start_tensorflow_visibly() -> console.Console:
    """Starts TensorFlow, says so meanwhile, and returns the console for the progress to come."""
    status = status_console()
    with status.status("starting TensorFlow"):
        start_tensorflow()
    return status


def status_console() -> console.Console:
    """Returns a console for progress on stderr, which shows while native messages are held, too."""
    stream = os.fdopen(os.dup(2), "w", buffering=1)
    return console.Console(file=stream)
