"""What an open dimension is counted as: its size in the call that a function is traced for."""

from __future__ import annotations

import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras_training import COLUMNS, OPTIONS, X, Y, sequential
from traced import mish, numbers

import nested_fad_tf as nfad

WEIGHT = numbers(COLUMNS, COLUMNS, seed=1, scale=COLUMNS**-0.5)
ROWS = tf.TensorSpec([None, COLUMNS])
SQUARE = tf.TensorSpec([COLUMNS, COLUMNS])


def step(x, w):
    with tf.GradientTape() as tape:
        tape.watch(w)
        y = mish(mish(x @ w) @ w)
        loss = tf.reduce_sum(y)
    return loss, tape.gradient(loss, w)


def sizes(reports):
    """What open dimensions were counted as, in functions that keep anything."""
    return {r.nominal_size for r in reports if r.kept_bytes_before}


def function(options=OPTIONS):
    return nfad.function(step, options=options, input_signature=[ROWS, SQUARE])


@pytest.mark.parametrize("rows", [numbers(90, COLUMNS), np.ones([90, COLUMNS], np.float32)])
def test_rows_of_the_first_call(rows):
    rewritten = function()
    rewritten(rows, w=WEIGHT)
    rewritten(numbers(7, COLUMNS), WEIGHT)
    assert sizes(rewritten.reports) == {90}


def test_a_size_that_was_asked_for():
    rewritten = function(OPTIONS.replace(nominal_size=5))
    rewritten(numbers(90, COLUMNS), WEIGHT)
    assert sizes(rewritten.reports) == {5}


def test_traced_without_a_call():
    rewritten = function()
    rewritten.get_concrete_function()
    assert sizes(rewritten.reports) == {32}
    described = nfad.rewrite(step, ROWS, SQUARE, options=OPTIONS)
    assert sizes(described.reports) == {32}


def test_traced_for_values():
    """As `nfad.rewrite` does, and `verify` before it compares."""
    x = numbers(90, COLUMNS)
    traced = function()
    traced.get_concrete_function(x, WEIGHT)
    verified = function(OPTIONS.replace(verify=True))
    verified(x, WEIGHT)
    assert sizes(traced.reports) == sizes(verified.reports) == {90}


def test_inside_another_function():
    inner = tf.function(step, input_signature=[ROWS, SQUARE])
    outer = tf.function(lambda w, x: inner(x, w), input_signature=[SQUARE, ROWS])
    with nfad.rewriting(OPTIONS) as session:
        outer(WEIGHT, numbers(70, COLUMNS))
    assert sizes(session.reports) == {70}


def dataset(batch):
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(batch)


def batches():
    """What a user's own generator yields."""
    for start in range(0, len(X), 300):
        yield X[start : start + 300], Y[start : start + 300]


class Batches(keras.utils.PyDataset):
    """Counts how often it is asked."""

    def __init__(self):
        super().__init__()
        self.asked = 0

    def __len__(self):
        return -(-len(X) // 300)

    def __getitem__(self, index):
        self.asked += 1
        return X[index * 300 : (index + 1) * 300], Y[index * 300 : (index + 1) * 300]


class BatchesThatTell(Batches):
    batch_size = 300


def fits():
    """Arguments of `fit`, and the batch size."""
    mapped = dataset(300).map(lambda x, y: (x + 1.0, y)).prefetch(1)
    unknown = tf.data.Dataset.from_generator(
        lambda: iter([(X, Y)]), output_signature=(ROWS, tf.TensorSpec([None, 1]))
    )
    return {
        "arrays": ({"x": X, "y": Y, "batch_size": np.int64(300)}, 300),
        "arrays, without a size": ({"x": X, "y": Y}, 32),
        "arrays, in so many steps": ({"x": X, "y": Y, "steps_per_epoch": 3}, -(-len(X) // 3)),
        "data set": ({"x": dataset(300)}, 300),
        "data set, shuffled": ({"x": dataset(300).shuffle(2).repeat(2)}, 300),
        "data set, mapped": ({"x": mapped}, 300),
        "data set of unknown batches": ({"x": unknown}, 32),
        "generator": ({"x": batches()}, 300),
        "PyDataset": ({"x": Batches()}, 32),
        "PyDataset that tells": ({"x": BatchesThatTell()}, 300),
    }


def fit(**arguments):
    model = sequential()
    model.compile("sgd", "mse")
    model.fit(**arguments, verbose=0)


@pytest.mark.parametrize("case", fits())
def test_batch_size_of_fit(case):
    arguments, expected = fits()[case]
    with nfad.rewriting(OPTIONS) as session:
        fit(**arguments)
    assert sizes(session.reports) == {expected}


def test_data_are_not_asked_once_more():
    plain, rewritten = Batches(), Batches()
    fit(x=plain)
    with nfad.rewriting(OPTIONS) as session:
        fit(x=rewritten)
    assert any(r.changed for r in session.reports)
    assert rewritten.asked == plain.asked


def test_batch_size_of_a_fit_inside_a_fit():
    """The innermost counts, as when a callback trains another model."""
    inner = sequential()
    inner.compile("sgd", "mse")
    nfad.keras.optimize(inner, OPTIONS)
    outer = sequential()
    outer.compile("sgd", "mse")

    class Trains(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            inner.fit(X, Y, batch_size=300, verbose=0)

    outer.fit(X, Y, batch_size=600, verbose=0, callbacks=[Trains()])
    assert sizes(nfad.keras.reports(inner)) == {300}


class Trainer:
    """Fits with two replicas; bench/distributed.py runs real ones."""

    distribute_strategy = types.SimpleNamespace(num_replicas_in_sync=2)

    def fit(self, x, batch_size=None):
        rewritten = function()
        rewritten.get_concrete_function()
        return rewritten.reports


def distributed():
    """Data sets that a strategy made; by a function, batches are those of one replica."""
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    return [
        strategy.experimental_distribute_dataset(dataset(300)),
        strategy.distribute_datasets_from_function(lambda context: dataset(300)),
    ]


def test_batch_size_of_a_replica():
    whole, of_replica = distributed()
    assert sizes(Trainer().fit(X, batch_size=300)) == {150}
    assert sizes(Trainer().fit(whole)) == {150}
    assert sizes(Trainer().fit(of_replica)) == {300}


def test_batch_size_of_a_distributed_data_set():
    """Not what a function made: Keras 3.6 doesn't take that."""
    with nfad.rewriting(OPTIONS) as session:
        fit(x=distributed()[0], steps_per_epoch=2)
    assert any(r.changed for r in session.reports)
    assert sizes(session.reports) == {300}
