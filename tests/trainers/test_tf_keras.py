"""tf_keras, Keras 2 as it lives on: models of many kinds, trained plain and rewritten."""

from __future__ import annotations

import functools

import pytest
import tensorflow as tf
from traced import penalized_loss
from trainers import INSTALL, OPTIONS, assert_fired, assert_same, numbers

import nested_fad_tf as nfad

tf_keras = pytest.importorskip("tf_keras", reason=f"tf_keras is {INSTALL}")
layers = tf_keras.layers

COLUMNS = 64
# Of 500 examples the last batch has 116.
X, Y = numbers(500, COLUMNS), numbers(500, 1, seed=1)


def dense(units=COLUMNS, activation="mish", **kwargs):
    return layers.Dense(units, activation=activation, **kwargs)


def sequential():
    return tf_keras.Sequential(
        [layers.Input([COLUMNS]), dense(), dense(), layers.Dropout(0.2), dense(), dense(1, None)]
    )


def functional(dropout=0.3):
    inputs = x = layers.Input([COLUMNS])
    for _ in range(2):
        x = layers.BatchNormalization()(dense(kernel_regularizer="l2")(x))
        x = layers.Dropout(dropout)(layers.Activation("gelu")(x))
    x = layers.LayerNormalization()(layers.Add()([x, inputs]))
    return tf_keras.Model(inputs, dense(1, None)(x))


def recurrent():
    inputs = layers.Input([COLUMNS])
    x = layers.Reshape([8, 8])(dense()(dense()(inputs)))
    return tf_keras.Model(inputs, dense(1, None)(layers.LSTM(16)(x)))


class Subclassed(tf_keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = [dense() for _ in range(3)]
        self.dropout = layers.Dropout(0.2)
        self.last = dense(1, None)

    def call(self, x, training=False):
        for layer in self.hidden:
            x = layer(x)
        return self.last(self.dropout(x, training=training))


class WithOwnStep(Subclassed):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compiled_loss(y, self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        gradients, norm = tf.clip_by_global_norm(gradients, 1.0)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss, "norm": norm}


class GradientPenalty(Subclassed):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as outer:
            loss = penalized_loss(self, x, y)
        self.optimizer.minimize(loss, self.trainable_variables, outer)
        return {"loss": loss}


def train(make, compiled=None, optimized=False, **fit):
    tf_keras.utils.set_random_seed(1)
    model = make()
    if optimized:
        nfad.keras.optimize(model, OPTIONS)
    model.compile(**{"optimizer": "adam", "loss": "mse", **(compiled() if compiled else {})})
    fit = {"batch_size": 128, "epochs": 2, "verbose": 0, **fit}
    return model, model.fit(X, Y, **fit).history


def check(make, compiled=None, rtol=1e-5, **fit):
    """Trains plain, inside `rewriting`, and optimized; gives the optimized model."""
    plain, expected = train(make, compiled, **fit)
    with nfad.rewriting(OPTIONS.replace(nominal_size=128)) as session:
        inside, history = train(make, compiled, **fit)
    model, actual = train(make, compiled, optimized=True, **fit)
    assert_fired(session.reports)
    assert_fired(nfad.keras.reports(model))
    assert_same([history, actual], [expected, expected], rtol)
    for trained in (inside, model):
        assert_same(trained.get_weights(), plain.get_weights(), 10 * rtol)
    return model


@pytest.mark.parametrize(
    "make", [sequential, functional, recurrent, Subclassed, WithOwnStep, GradientPenalty]
)
def test_kinds_of_models(make):
    check(make)


def without_dropout():
    return functional(dropout=0.0)


@pytest.mark.parametrize("make", [without_dropout, GradientPenalty])
def test_compiled_as_a_whole(make):
    """Without dropout: XLA ignores the seeds of tf_keras' random numbers."""
    check(make, lambda: {"jit_compile": True}, batch_size=125)  # compiled once, for four batches


def test_several_steps_an_execution():
    check(functional, lambda: {"steps_per_execution": 3})


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: tf_keras.optimizers.SGD(0.01, momentum=0.9, clipnorm=1.0),
        lambda: tf_keras.optimizers.AdamW(1e-3, use_ema=True),
        lambda: tf_keras.optimizers.legacy.Adam(1e-3),
    ],
    ids=["sgd", "adamw-ema", "legacy"],
)
def test_optimizers(optimizer):
    check(sequential, lambda: {"optimizer": optimizer()})


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy):
    def make():
        hidden = [dense(activation=name) for name in ("mish", "gelu", "mish")]
        last = dense(1, None, dtype="float32")
        return tf_keras.Sequential([layers.Input([COLUMNS]), *hidden, layers.Dropout(0.2), last])

    before = tf_keras.mixed_precision.global_policy()
    tf_keras.mixed_precision.set_global_policy(policy)
    try:
        # As far as plain TensorFlow is from itself in these dtypes when ops are fused differently.
        model = check(make, rtol=1e-2)
    finally:
        tf_keras.mixed_precision.set_global_policy(before)
    kept = {k.dtype for r in nfad.keras.reports(model) for k in r.kept}
    assert policy.removeprefix("mixed_") in kept


def test_train_on_batch_and_compiling_again():
    runs = []
    for optimized in (False, True):
        model, _ = train(functional, optimized=optimized, epochs=1)
        model.compile("sgd", "mae")
        losses = [model.train_on_batch(X[:100], Y[:100]) for _ in range(3)]
        runs.append([losses, model.get_weights()])
    assert_fired(nfad.keras.reports(model))
    assert_same(runs[1], runs[0], 1e-4)


def test_a_step_with_a_tape():
    runs = []
    for wrap in (tf.function, functools.partial(nfad.function, options=OPTIONS)):
        tf_keras.utils.set_random_seed(1)
        model, optimizer = functional(), tf_keras.optimizers.Adam()
        optimizer.build(model.trainable_variables)

        def step(x, y, model=model, optimizer=optimizer):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(model(x, training=True) - y)) + sum(model.losses)
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
            return loss, gradients

        function = wrap(step)
        results = [function(tf.constant(X), tf.constant(Y)) for _ in range(3)]
        runs.append((results, model.get_weights()))
    assert_fired(function.reports)
    assert_same(runs[1][0][0], runs[0][0][0])
    assert_same(runs[1][1], runs[0][1], 1e-4)


def test_memory_report():
    lines = []
    train(sequential, optimized=True, callbacks=[nfad.keras.MemoryReport(print_fn=lines.append)])
    assert any("predicted peak" in line for line in lines)


@pytest.mark.parametrize("make", [sequential, functional])
def test_saved_and_loaded(make, tmp_path):
    model, _ = train(make, optimized=True)
    model.save(tmp_path / "model.keras")
    loaded = tf_keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model)
    assert_same(loaded.predict(X, verbose=0), model.predict(X, verbose=0))
    loaded.fit(X, Y, verbose=0)
    assert_fired(nfad.keras.reports(loaded))


@pytest.mark.parametrize("make", [sequential, functional])
def test_cloned(make):
    model = nfad.keras.optimize(make(), OPTIONS)
    clone = tf_keras.models.clone_model(model)
    assert type(clone) is type(model) and clone.layers[-1] is not model.layers[-1]
    clone.compile("adam", "mse")
    clone.fit(X, Y, verbose=0)
    assert_fired(nfad.keras.reports(clone))
    assert not nfad.keras.reports(model)
    plain = nfad.keras.strip(model)
    assert type(tf_keras.models.clone_model(plain)) is type(plain)
