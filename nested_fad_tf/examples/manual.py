"""Text that comes with Python: the topics of its reference manual, as help() shows them."""

from __future__ import annotations

import pydoc_data.topics

import numpy as np

from nested_fad_tf.examples.example import Dataset, MissingPackageError

_TEST_SHARE = 20  # one twentieth of the text


def load(length: int) -> Dataset:
    """Returns overlapping pieces of the manual; the label of a character is the next one.

    Args:
        length: Characters per piece.

    Raises:
        MissingPackageError: If this Python came without its manual.
    """
    text = "\n".join(body for _, body in sorted(pydoc_data.topics.topics.items()))
    if len(text) < 100 * length:
        raise MissingPackageError(
            "this example reads Python's reference manual (pydoc_data.topics), which this Python "
            "came without: install its full standard library"
        )
    # Rare characters share one label, so that the alphabet stays small.
    found, counts = np.unique(list(text), return_counts=True)
    alphabet = {character: i for i, character in enumerate(found[counts >= 20], start=1)}
    codes = np.array([alphabet.get(character, 0) for character in text], np.int32)
    split = len(codes) - len(codes) // _TEST_SHARE
    train_x, train_y = _pieces(codes[:split], length, stride=length // 2)
    test_x, test_y = _pieces(codes[split:], length, stride=length)
    return Dataset(
        train_x=train_x,
        train_y=train_y,
        test_x=test_x,
        test_y=test_y,
        classes=len(alphabet) + 1,
        description=f"{len(codes) / 1e6:.1f} million characters of Python's reference manual",
    )


def _pieces(codes: np.ndarray, length: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a text into pieces and the same pieces one character later."""
    windows = np.lib.stride_tricks.sliding_window_view(codes, length + 1)[::stride]
    return windows[:, :-1].copy(), windows[:, 1:].copy()
