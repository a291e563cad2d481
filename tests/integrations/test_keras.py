"""Keras models of many kinds, trained plain and optimized: the same losses and weights."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras_training import (
    COLUMNS,
    OPTIONS,
    X,
    Y,
    assert_same,
    check,
    dense,
    functional,
    hidden,
    sequential,
    train,
)
from traced import penalized_loss

import nested_fad_tf as nfad


def shared_and_frozen():
    inputs = keras.Input([COLUMNS])
    shared, frozen = dense(), dense(trainable=False)
    x = shared(frozen(shared(frozen(shared(inputs)))))
    return keras.Model(inputs, dense(1, None)(x))


class WithAddedLoss(keras.Layer):
    def call(self, x):
        self.add_loss(0.01 * keras.ops.mean(keras.ops.square(x)))
        return x


def with_added_losses():
    inputs = keras.Input([COLUMNS])
    x = WithAddedLoss()(hidden(inputs))
    x = dense(kernel_regularizer="l2", activity_regularizer="l1")(x)
    return keras.Model(inputs, dense(1, None)(x))


def several_outputs():
    a, b = keras.Input([COLUMNS], name="a"), keras.Input([COLUMNS], name="b")
    x = hidden(keras.layers.Concatenate()([a, b]))
    # Keras 3.6 goes by the names of the layers, newer ones by the keys.
    first, second = dense(1, None, name="first")(x), dense(1, "sigmoid", name="second")(x)
    return keras.Model([a, b], {"first": first, "second": second})


def recurrent():
    inputs = keras.Input([COLUMNS])
    x = keras.layers.Reshape([8, 8])(hidden(inputs, 2))
    return keras.Model(inputs, dense(1, None)(keras.layers.GRU(16)(x)))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = [dense() for _ in range(3)]
        self.last = dense(1, None)

    def call(self, x):
        for layer in self.hidden:
            x = layer(x)
        return self.last(x)


class WithSuper(Subclassed):
    def train_step(self, data):
        x, y = data
        return super().train_step((x + 0.1, y))


class WithOwnStep(Subclassed):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


class GradientPenalty(Subclassed):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as outer:
            loss = penalized_loss(self, x, y)
        gradients = outer.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


@pytest.mark.parametrize(
    "make",
    [sequential, functional, shared_and_frozen, with_added_losses, recurrent, Subclassed,
     WithSuper, WithOwnStep, GradientPenalty],
)  # fmt: skip
def test_kinds_of_models(make):
    check(make)


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", [functional, pytest.param(WithOwnStep, marks=pytest.mark.slow)])
def test_compiled_or_not(make, jit_compile):
    check(make, lambda: {"jit_compile": jit_compile})


def test_several_inputs_outputs_losses_metrics_and_weights():
    labels = (Y > 0).astype(np.float32)
    check(
        several_outputs,
        lambda: {
            "loss": {"first": "mse", "second": "binary_crossentropy"},
            "loss_weights": {"first": 0.5, "second": 2.0},
            "metrics": {"first": ["mae"], "second": ["accuracy"]},
        },
        x={"a": X, "b": X[::-1]},
        y={"first": Y, "second": labels},
        sample_weight={"first": labels[:, 0] + 0.5, "second": labels[:, 0] + 1.0},
    )


def test_class_weights():
    labels = (Y > 0).astype(np.float32)
    compiled = {"loss": keras.losses.BinaryCrossentropy(from_logits=True), "metrics": ["accuracy"]}
    check(functional, lambda: compiled, y=labels, class_weight={0: 0.2, 1: 0.8})


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True, clipnorm=1.0),
        lambda: keras.optimizers.AdamW(1e-3, use_ema=True, ema_momentum=0.9),
        lambda: keras.optimizers.RMSprop(1e-3, gradient_accumulation_steps=2),
        lambda: keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, 10)),
    ],
    ids=["sgd", "adamw-ema", "accumulation", "schedule"],
)
def test_optimizers(optimizer):
    check(functional, lambda: {"optimizer": optimizer()})


@pytest.mark.parametrize("steps", [3, pytest.param(16, marks=pytest.mark.slow)])
def test_several_steps_an_execution(steps):
    check(functional, lambda: {"steps_per_execution": steps})


def test_a_dataset_of_unknown_size_and_validation():
    def batches():
        return tf.data.Dataset.from_tensor_slices((X, Y)).batch(300)

    keras.utils.set_random_seed(1)
    _, expected = train(functional, False, x=batches(), y=None, batch_size=None,
                        validation_data=batches())  # fmt: skip
    model, actual = train(functional, True, x=batches(), y=None, batch_size=None,
                          validation_data=batches())  # fmt: skip
    assert any(r.changed for r in nfad.keras.reports(model))
    assert_same(actual, expected)


def test_evaluate_and_predict_are_not_rewritten():
    model, _ = train(functional, True)
    traced = len(nfad.keras.reports(model))
    model.evaluate(X, Y, verbose=0)
    model.predict(X, verbose=0)
    assert len(nfad.keras.reports(model)) == traced


def test_train_on_batch_and_compiling_again():
    runs = []
    for optimized in (False, True):
        model, _ = train(functional, optimized, epochs=1)
        losses = [model.train_on_batch(X[:100], Y[:100]) for _ in range(2)]
        model.compile("sgd", "mae")
        losses += [model.train_on_batch(X[:100], Y[:100]) for _ in range(2)]
        runs.append([losses, model.get_weights()])
    assert sum(r.changed for r in nfad.keras.reports(model)) >= 2
    assert_same(runs[1], runs[0], rtol=1e-4)


def test_optimizing_after_training_traces_anew():
    model, _ = train(functional, False)
    nfad.keras.optimize(model, OPTIONS)
    model.fit(X, Y, verbose=0)
    assert any(r.changed for r in nfad.keras.reports(model))


def test_run_eagerly_works_and_says_why_nothing_is_done():
    model = check(functional, lambda: {"run_eagerly": True}, fires=False, epochs=1)
    assert [r.reason for r in nfad.keras.reports(model)] == [
        "run_eagerly=True: no function is traced, so there is nothing to rewrite"
    ]


@pytest.mark.skipif(not hasattr(keras, "RematScope"), reason="RematScope came with Keras 3.9")
@pytest.mark.parametrize(
    "mode", ["activations", pytest.param("list_of_layers", marks=pytest.mark.slow)]
)
def test_remat_scope_keeps_working(mode):
    def make():
        # Keras counts layers of a kind in their names, over all tests of a process. Of layers that
        # take `training`, such as Dense, it recomputes none in a graph: that is an error.
        keras.backend.clear_session()
        with keras.RematScope(mode=mode, layer_names=["activation"]):
            return functional()

    check(make)


def test_recompute_grad_keeps_working():
    class Recomputing(keras.Layer):
        def build(self, shape):
            self.inner = dense()
            self.inner.build(shape)

        def call(self, x):
            return tf.recompute_grad(lambda x: self.inner(x))(x)

    def make():
        inputs = keras.Input([COLUMNS])
        return keras.Model(inputs, dense(1, None)(hidden(Recomputing()(inputs))))

    check(make)


@pytest.mark.parametrize("make", [sequential, functional])
def test_saved_and_loaded(make, tmp_path):
    model, _ = train(make, True, options=OPTIONS.replace(strategy="recompute"))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model)
    assert_same(loaded.predict(X, verbose=0), model.predict(X, verbose=0))
    loaded.fit(X, Y, verbose=0)
    reports = nfad.keras.reports(loaded)
    assert any(r.changed for r in reports)
    assert {r.strategy for r in reports} == {"recompute"}


def test_the_config_is_the_models_own_and_the_options():
    model = functional()
    plain = model.get_config()
    nfad.keras.optimize(model, OPTIONS)
    config = model.get_config()
    ours = config.pop("nested_fad_tf")
    assert config == plain
    assert nfad.Options.from_dict(ours["options"]) == OPTIONS


def test_loaded_in_another_process(tmp_path):
    """With the package it is optimized, stripped it needs no package."""
    model, _ = train(functional, True)
    model.save(tmp_path / "optimized.keras")
    np.save(tmp_path / "expected.npy", model.predict(X, verbose=0))
    assert nfad.keras.strip(model) is model
    assert type(model) is keras.Model or type(model).__name__ == "Functional"
    model.save(tmp_path / "stripped.keras")
    script = textwrap.dedent(
        """
        import json, sys
        import keras
        import numpy as np
        folder = sys.argv[1]
        stripped = keras.models.load_model(folder + "/stripped.keras")
        assert "nested_fad_tf" not in sys.modules
        import nested_fad_tf as nfad
        from nested_fad_tf import keras as _
        loaded = keras.models.load_model(folder + "/optimized.keras")
        x = np.random.default_rng(0).standard_normal((1000, 64)).astype(np.float32)
        expected = np.load(folder + "/expected.npy")
        errors = [float(abs(m.predict(x, verbose=0) - expected).max()) for m in (stripped, loaded)]
        loaded.fit(x, x[:, :1], verbose=0)
        print(json.dumps([errors, any(r.changed for r in nfad.keras.reports(loaded))]))
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    errors, changed = json.loads(done.stdout.splitlines()[-1])
    assert max(errors) < 1e-5
    assert changed


def test_cloned():
    model = nfad.keras.optimize(functional(), OPTIONS)
    clone = keras.models.clone_model(model)
    assert type(clone) is type(model)
    clone.compile("adam", "mse")
    clone.fit(X, Y, verbose=0)
    assert any(r.changed for r in nfad.keras.reports(clone))
    assert not nfad.keras.reports(model)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_cloned_sequential(compiled):
    model = keras.Sequential(
        [keras.Input(X.shape[1:]), *(keras.layers.Dense(64, "gelu") for _ in range(3))]
    )
    plain = keras.models.clone_model(model)
    nfad.keras.optimize(model, OPTIONS)
    if compiled:
        model.compile("adam", "mse")
        plain.compile("adam", "mse")
    clone = keras.models.clone_model(model)
    assert type(clone) is type(model) and clone.layers[0] is not model.layers[0]
    assert clone.compiled == keras.models.clone_model(plain).compiled  # not with Keras 3.6
    if not clone.compiled:
        clone.compile("adam", "mse")
    clone.fit(X, np.tile(Y, 64)[:, :64], verbose=0)
    assert any(r.changed for r in nfad.keras.reports(clone))
    assert not nfad.keras.reports(model)
    # Of others, copies are what they were.
    assert type(plain) is type(keras.models.clone_model(plain)) is keras.Sequential
    copy = keras.models.clone_model(
        model, clone_function=lambda layer: type(layer).from_config(layer.get_config())
    )
    assert type(copy) is type(model)


def test_optimizing_again_takes_the_new_options():
    model = nfad.keras.optimize(functional(), OPTIONS)
    nfad.keras.optimize(model, OPTIONS.replace(strategy="recompute"))
    assert "OptimizedOptimized" not in type(model).__name__
    model.compile("adam", "mse")
    model.fit(X, Y, verbose=0)
    assert {r.strategy for r in nfad.keras.reports(model)} == {"recompute"}


def test_what_is_not_a_model():
    with pytest.raises(TypeError, match="takes a Keras model, not Dense"):
        nfad.keras.optimize(dense())
    with pytest.raises(nfad.OptionsError, match="assert_same_step"):
        nfad.keras.optimize(functional(), nfad.Options(verify=True))
    with pytest.raises(ValueError, match="was not optimized"):
        nfad.keras.reports(functional())
