"""Training that stops and goes on from a file: the same with and without us, and across."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras_training import COLUMNS, OPTIONS, X, Y, assert_same, dense, hidden

import nested_fad_tf as nfad

EPOCHS, STOP = 4, 2
FIT = {"batch_size": 250, "shuffle": False, "verbose": 0}
ACROSS = pytest.mark.parametrize("restored", [False, True], ids=["to-plain", "to-optimized"])
SAVED = pytest.mark.parametrize("saved", [False, True], ids=["plain", "optimized"])


@keras.saving.register_keras_serializable("tests")
class Dropout(keras.layers.Dropout):
    """Saves the state of its seed, which Keras' own does not."""

    def save_own_variables(self, store):
        store["seed"] = keras.ops.convert_to_numpy(self.seed_generator.state)

    def load_own_variables(self, store):
        self.seed_generator.state.assign(store["seed"][()])


def make(optimized):
    keras.utils.set_random_seed(1)
    inputs = keras.Input([COLUMNS])
    x = Dropout(0.3)(hidden(inputs))
    x = keras.layers.BatchNormalization()(x)
    model = keras.Model(inputs, dense(1, None)(keras.layers.Activation("gelu")(x)))
    if optimized:
        nfad.keras.optimize(model, OPTIONS)
    model.compile("adam", "mse")
    return model


def other():
    """A model of the same shape, whose weights, slots and seeds are to be replaced."""
    model = make(False)
    model.set_weights([w + 0.5 for w in model.get_weights()])
    model.layers[-4].seed_generator.state.assign([7, 7])
    model.optimizer.build(model.trainable_variables)
    return model


def fit(model, epochs=EPOCHS, **kwargs):
    losses = model.fit(X, Y, epochs=epochs, **FIT, **kwargs).history["loss"]
    if hasattr(type(model), "_original"):
        assert any(report.changed for report in nfad.keras.reports(model))
    return losses


@pytest.fixture(scope="module")
def uninterrupted():
    model = make(False)
    return fit(model), model.get_weights()


def assert_goes_on(model, losses, uninterrupted):
    expected_losses, expected_weights = uninterrupted
    assert len(losses) == EPOCHS - STOP
    assert_same(losses, expected_losses[STOP:])
    assert_same(model.get_weights(), expected_weights)


@SAVED
@ACROSS
@pytest.mark.parametrize("whole", [True, False], ids=["model", "weights"])
def test_model_checkpoint(whole, saved, restored, uninterrupted, tmp_path):
    path = tmp_path / ("model.keras" if whole else "model.weights.h5")
    callback = keras.callbacks.ModelCheckpoint(path, save_weights_only=not whole)
    fit(make(saved), STOP, callbacks=[callback])
    if whole:
        model = keras.models.load_model(path)
        assert (type(model) is not type(make(False))) == saved
    else:
        model = other()
        model.load_weights(path)
    model = nfad.keras.optimize(model, OPTIONS) if restored else nfad.keras.strip(model)
    assert_goes_on(model, fit(model, initial_epoch=STOP), uninterrupted)


class Interrupted(Exception):  # noqa: N818
    pass


class Interrupt(keras.callbacks.Callback):
    """Stops a training after an epoch, or after so many batches of the one that follows."""

    def __init__(self, batches):
        super().__init__()
        self.batches, self.epoch = batches, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == STOP and batch + 1 == self.batches:
            raise Interrupted

    def on_epoch_end(self, epoch, logs=None):
        if not self.batches and epoch + 1 == STOP:
            raise Interrupted


def interrupted_and_taken_up(saved, restored, batches, folder, **backup):
    def callback():
        return keras.callbacks.BackupAndRestore(folder, **backup)

    with pytest.raises(Interrupted):
        fit(make(saved), callbacks=[callback(), Interrupt(batches)])
    model = other()
    if restored:
        nfad.keras.optimize(model, OPTIONS)
    return model, fit(model, callbacks=[callback()])


@SAVED
@ACROSS
@pytest.mark.parametrize("batches", [0, 2], ids=["after-an-epoch", "in-an-epoch"])
def test_backup_and_restore(batches, saved, restored, uninterrupted, tmp_path):
    model, losses = interrupted_and_taken_up(saved, restored, batches, tmp_path / "backup")
    assert_goes_on(model, losses, uninterrupted)


def test_backups_in_an_epoch(tmp_path):
    """Keras takes up the epoch from its beginning, with the weights of its middle."""
    runs = []
    for saved, restored in [(False, False), (False, True), (True, False), (True, True)]:
        folder = tmp_path / f"{saved}-{restored}"
        model, losses = interrupted_and_taken_up(saved, restored, 3, folder, save_freq=2)
        runs.append([losses, model.get_weights()])
    for run in runs[1:]:
        assert_same(run, runs[0])


class Loop:
    """A loop of one's own, with all the state that it has."""

    def __init__(self, optimized):
        self.model = make(False)
        self.optimizer = keras.optimizers.Adam()
        self.optimizer.build(self.model.trainable_variables)
        self.generator = tf.random.Generator.from_seed(3)
        self.iteration = tf.Variable(0, dtype=tf.int64)
        data = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(1000, seed=5).batch(100)
        self.iterator = iter(data.repeat())
        wrap = (lambda f: nfad.function(f, options=OPTIONS)) if optimized else tf.function
        self.step = wrap(self._step)
        self.checkpoint = tf.train.Checkpoint(
            model=self.model,
            optimizer=self.optimizer,
            generator=self.generator,
            iteration=self.iteration,
            iterator=self.iterator,
            # Of Keras' seeds, too, nothing is kept if it isn't named.
            seed=self.model.layers[-4].seed_generator.state.value,
        )

    def _step(self, x, y):
        x += 0.1 * self.generator.normal(tf.shape(x))
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self.model(x, training=True) - y))
        variables = self.model.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        self.iteration.assign_add(1)
        return loss

    def run(self, steps):
        losses = [float(self.step(*next(self.iterator))) for _ in range(steps)]
        if isinstance(self.step, nfad.Function):
            assert self.step.reports[-1].changed
        return losses

    def manager(self, folder):
        return tf.train.CheckpointManager(self.checkpoint, folder, max_to_keep=2)

    def state(self):
        slots = [keras.ops.convert_to_numpy(v) for v in self.optimizer.variables]
        return [self.model.get_weights(), slots, self.generator.state.numpy()]


@SAVED
@ACROSS
def test_checkpoint_of_a_loop(saved, restored, tmp_path):
    whole = Loop(False)
    expected = whole.run(16)  # beyond the end of the data, which are shuffled anew
    before = Loop(saved)
    manager = before.manager(tmp_path)
    for steps in (2, 3, 3):
        before.run(steps)
        manager.save(before.iteration)
    assert [p.rpartition("-")[2] for p in manager.checkpoints] == ["5", "8"]
    after = Loop(restored)
    after.run(1)  # so that something is there to be replaced
    after.checkpoint.restore(after.manager(tmp_path).latest_checkpoint).assert_consumed()
    assert int(after.iteration) == 8
    assert_same(after.run(8), expected[8:])
    assert_same(after.state(), whole.state())


def keys_of(path):
    found = []
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.append((name, getattr(item, "shape", None))))
    return found


def test_what_is_in_the_files(tmp_path):
    """Neither checkpoints nor files of weights tell whether a model was optimized."""
    lists, files, loops = [], [], []
    for optimized in (False, True):
        model, loop = make(optimized), Loop(optimized)
        fit(model, 1)
        loop.run(1)
        checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
        lists.append(tf.train.list_variables(checkpoint.save(tmp_path / f"model-{optimized}")))
        loops.append(tf.train.list_variables(loop.checkpoint.save(tmp_path / f"loop-{optimized}")))
        model.save_weights(tmp_path / f"{optimized}.weights.h5")
        files.append(keys_of(tmp_path / f"{optimized}.weights.h5"))
    for plain, optimized in (lists, files, loops):
        assert len(plain) > 20
        assert optimized == plain


def test_files_of_an_optimized_model_elsewhere(tmp_path):
    """Weights need no package; a whole model needs the integration imported, and says so."""
    model = nfad.keras.optimize(keras.Sequential([keras.Input([COLUMNS]), dense(), dense()]))
    model.compile("adam", "mse")
    model.fit(X, X, **FIT)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    np.savez(tmp_path / "expected.npz", x=X, y=model.predict(X, verbose=0))
    (tmp_path / "model.json").write_text(nfad.keras.strip(model).to_json())
    script = textwrap.dedent(
        """
        import json, sys
        import keras
        import numpy as np
        folder = sys.argv[1]
        data = np.load(folder + "/expected.npz")
        x, y = data["x"], data["y"]
        model = keras.models.model_from_json(open(folder + "/model.json").read())
        model.load_weights(folder + "/model.weights.h5")
        errors = [float(abs(model.predict(x, verbose=0) - y).max())]
        assert "nested_fad_tf" not in sys.modules
        try:
            keras.models.load_model(folder + "/model.keras")
        except TypeError as error:
            message = str(error)
        from nested_fad_tf import keras as nfad_keras
        model = keras.models.load_model(folder + "/model.keras")
        errors.append(float(abs(model.predict(x, verbose=0) - y).max()))
        print(json.dumps([errors, message]))
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    errors, message = json.loads(done.stdout.splitlines()[-1])
    assert max(errors) < 1e-6
    assert message.startswith("Could not locate class 'Optimized")
    assert "nested_fad_tf.integrations.keras" in message
