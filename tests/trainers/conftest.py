"""Keeps what other people's packages do to the process from the tests after them."""

import os

import pytest


@pytest.fixture(autouse=True)
def keras_as_it_was():
    """Importing transformers makes `tf.keras` mean Keras 2, in processes started later as well."""
    before = os.environ.get("TF_USE_LEGACY_KERAS")
    yield
    if before is None:
        os.environ.pop("TF_USE_LEGACY_KERAS", None)
