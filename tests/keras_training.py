"""Keras models, trained plain and optimized from the same state."""

from __future__ import annotations

import keras
import numpy as np
from traced import assert_same

import nested_fad_tf as nfad

COLUMNS = 64
OPTIONS = nfad.Options(on_error="raise", fuse="ops", min_bytes=1024)
RNG = np.random.default_rng(0)
X = RNG.standard_normal((1000, COLUMNS)).astype(np.float32)
Y = RNG.standard_normal((1000, 1)).astype(np.float32)


def dense(units=COLUMNS, activation="mish", **kwargs):
    return keras.layers.Dense(units, activation=activation, **kwargs)


def hidden(x, depth=3):
    for _ in range(depth):
        x = dense()(x)
    return x


def sequential():
    return keras.Sequential([keras.Input([COLUMNS]), dense(), dense(), dense(), dense(1, None)])


def functional():
    inputs = keras.Input([COLUMNS])
    x = keras.layers.Dropout(0.3)(hidden(inputs))
    x = keras.layers.BatchNormalization()(x)
    return keras.Model(inputs, dense(1, None)(keras.layers.Activation("gelu")(x)))


def train(make, optimized, compiled=None, options=OPTIONS, x=X, y=Y, **fit):
    keras.utils.set_random_seed(1)
    model = make()
    if optimized:
        assert nfad.keras.optimize(model, options) is model
    model.compile(**{"optimizer": "adam", "loss": "mse", **(compiled() if compiled else {})})
    # Of 1000 examples the last batch has 232.
    fit = {"batch_size": 256, "epochs": 2, "verbose": 0, **fit}
    history = model.fit(x, y, **fit).history
    return model, history


def check(make, compiled=None, fires=True, rtol=1e-5, **kwargs):
    plain, expected = train(make, False, compiled, **kwargs)
    model, actual = train(make, True, compiled, **kwargs)
    reports = nfad.keras.reports(model)
    assert any(r.changed for r in reports) == fires, {r.reason for r in reports}
    assert_same(actual, expected, rtol)
    assert_same(model.get_weights(), plain.get_weights(), 10 * rtol)
    return model
