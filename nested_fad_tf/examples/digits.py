"""Handwritten digits: 1797 grey images of 8 by 8 pixels that scikit-learn carries in its wheel."""

from __future__ import annotations

import numpy as np

from nested_fad_tf.examples.example import Dataset, MissingPackageError

_TEST_SHARE = 5  # one image in five


def load() -> Dataset:
    """Returns the digits as float images of shape [8, 8, 1], about zero mean and unit variance.

    Raises:
        MissingPackageError: If scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingPackageError(
            "this example's data comes with scikit-learn, which is not installed: "
            "pip install 'nested_fad_tf[examples]' (or pip install scikit-learn)"
        ) from error
    digits = load_digits()
    images = ((digits.images - 4.9) / 6.0).astype(np.float32)[..., np.newaxis]
    labels = digits.target.astype(np.int32)
    # The file lists writer after writer: without shuffling, the test set would be other people.
    order = np.random.default_rng(0).permutation(len(images))
    held_out = len(images) // _TEST_SHARE
    test, train = order[:held_out], order[held_out:]
    return Dataset(
        train_x=images[train],
        train_y=labels[train],
        test_x=images[test],
        test_y=labels[test],
        classes=10,
        description=f"{len(images)} handwritten digits (scikit-learn), {held_out} held out",
    )


def load_enlarged(size: int) -> Dataset:
    """Returns the digits as [size, size, 3] images, for networks that halve their input many times.

    Args:
        size: Height and width, a multiple of 8.
    """
    small = load()

    def enlarge(images: np.ndarray) -> np.ndarray:
        factor = size // images.shape[1]
        large = images.repeat(factor, axis=1).repeat(factor, axis=2)
        return large.repeat(3, axis=3)

    return Dataset(
        train_x=enlarge(small.train_x),
        train_y=small.train_y,
        test_x=enlarge(small.test_x),
        test_y=small.test_y,
        classes=small.classes,
        description=f"{small.description}, enlarged to {size} pixels",
    )
