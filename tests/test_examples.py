import importlib.util
import sys

import numpy as np
import pytest

from nested_fad_tf.examples import digits, manual, registry
from nested_fad_tf.examples.example import MissingPackageError

needs_digits = pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None, reason="scikit-learn is not installed"
)


@needs_digits
def test_digits_are_split_without_overlap():
    data = digits.load()
    assert data.train_x.shape == (1438, 8, 8, 1)
    assert data.test_x.shape == (359, 8, 8, 1)
    assert set(np.unique(data.test_y)) == set(range(10))
    assert abs(data.train_x.mean()) < 0.1


@needs_digits
def test_enlarging_repeats_pixels():
    small, large = digits.load(), digits.load_enlarged(16)
    assert large.train_x.shape == (1438, 16, 16, 3)
    np.testing.assert_array_equal(large.train_x[:, ::2, 1::2, 2], small.train_x[..., 0])


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingPackageError, match="pip install"):
        digits.load()


def test_the_label_of_a_character_is_the_next_one():
    data = manual.load(32)
    assert data.train_x.shape[1:] == data.train_y.shape[1:] == (32,)
    np.testing.assert_array_equal(data.train_x[:, 1:], data.train_y[:, :-1])
    assert data.train_y.max() < data.classes


def test_batches_are_full_and_repeat_for_the_same_seed():
    data = manual.load(128)
    size = len(data.train_x) // 2 + 1
    first, second = data.batches(size, seed=1), data.batches(size, seed=1)
    for _ in range(3):
        (x, y), (same_x, same_y) = next(first), next(second)
        assert len(x) == len(y) == size
        np.testing.assert_array_equal(x, same_x)
        np.testing.assert_array_equal(y, same_y)
    assert not np.array_equal(
        next(data.batches(size, seed=2))[0], next(data.batches(size, seed=1))[0]
    )


def test_a_batch_may_be_larger_than_the_data():
    data = manual.load(512)
    size = 2 * len(data.train_x) + 1
    assert len(next(data.batches(size, seed=0))[0]) == size


@needs_digits
@pytest.mark.parametrize("name", ["vit", "mish_convnet", "gpt"])
def test_models_map_a_batch_to_logits(name):
    example = registry.load(name)
    data = example.load()
    logits = example.make_model(data)(data.test_x[:2])
    assert tuple(logits.shape) == (*data.test_y[:2].shape, data.classes)


def test_every_example_has_a_summary():
    assert registry.DEFAULT in registry.SUMMARIES
