"""One process of a distributed training run, plain or rewritten.

    python -m nested_fad_tf.bench.distributed --json '{"strategy": "mirrored", ...}'

Where it takes several processes, TF_CONFIG says which of them this is. Servers run until they are
stopped. The others print a line of JSON at the end: the losses, a sum over the final weights, and
the peak of one step in this process, if that was asked for.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

import nested_fad_tf as nfad
from nested_fad_tf.bench import cluster, request
from nested_fad_tf.report.allocations import Recording, works_alone

_FEATURES, _LAYERS = 256, 6
_STEPS = 8
# Rows of all replicas together. Of a server only the process can be measured from outside, which is
# large without a step: more rows.
_BATCHES = {"dense": 2048, "mobilenetv3small": 64}
_SERVED_BATCHES = {"dense": 16384, "mobilenetv3small": 256}
_SERVED = "parameter_server"
# Collectives in the forward and the backward pass; a parameter server has none.
_SYNCHRONIZED = ("mirrored", "multi_worker")


def make_strategy(name: str) -> tf.distribute.Strategy:
    """Makes a strategy on this machine's processor.

    Args:
        name: One of `cluster.CLUSTERS`.

    Returns:
        The strategy; a mirrored one has two replicas.

    Raises:
        ValueError: If there is no such strategy.
    """
    if name == "one_device":
        return tf.distribute.OneDeviceStrategy("CPU:0")
    if name == "mirrored":
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
        return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    if name == "multi_worker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == _SERVED:
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        return tf.distribute.ParameterServerStrategy(resolver)
    raise ValueError(f"strategy must be one of {tuple(cluster.CLUSTERS)}, not {name!r}")


def serve() -> None:
    """Runs a worker or a parameter server until the process is stopped."""
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    server = tf.distribute.Server(
        resolver.cluster_spec(),
        job_name=resolver.task_type,
        task_index=resolver.task_id,
        protocol=resolver.rpc_layer or "grpc",
    )
    server.join()


def run(strategy: str, mode: str, rewritten: bool, model: str, measured: bool) -> dict[str, Any]:
    """Trains for some steps.

    Args:
        strategy: One of `cluster.CLUSTERS`.
        mode: "fit", or "loop" for a loop of `strategy.run` or of `coordinator.schedule`.
        rewritten: Whether the steps are rewritten.
        model: One of `cluster.MODELS`.
        measured: Whether the peak of a step is measured, though a process that works with others
            may crash of it.

    Returns:
        losses: one a step or an epoch; weights: the sum of their squares; peak_bytes: of one step
        in this process, `None` where it can't be measured; changed: whether a step was rewritten.
    """
    made, served = make_strategy(strategy), strategy == _SERVED
    # Keras 3 trains in one process only; tf_keras is what trains in several.
    keras = importlib.import_module("tf_keras" if cluster.CLUSTERS[strategy] else "keras")
    with made.scope():
        network = _model(keras, model, synchronized=strategy in _SYNCHRONIZED)
        # One worker at a time: two that update the same weights at once never do the same twice.
        together = {"steps_per_execution": _STEPS} if served else {}
        network.compile(_optimizer(keras, model), "mse", **together)
    train = _fit if mode == "fit" else _schedule if served else _loop
    batch = (_SERVED_BATCHES if served else _BATCHES)[model]
    options = nfad.Options(on_error="raise") if rewritten else None
    # In a process of its own, `fit` is measured by the callback that users have.
    third = _ThirdStep(measured and not (mode == "fit" and works_alone()))
    losses, peak, reports = train(made, network, batch, options, third)
    return {
        "losses": losses,
        "weights": sum(float(np.square(w, dtype=np.float64).sum()) for w in network.get_weights()),
        "peak_bytes": peak,
        "changed": any(report.changed for report in reports),
    }


def _model(keras: Any, name: str, synchronized: bool) -> Any:
    keras.utils.set_random_seed(0)
    if name == "mobilenetv3small":
        return keras.applications.MobileNetV3Small(
            input_shape=(96, 96, 3), weights=None, include_preprocessing=False, dropout_rate=0.0,
            classes=1, classifier_activation=None,
        )  # fmt: skip
    layers = [keras.layers.Dense(_FEATURES, activation="gelu") for _ in range(_LAYERS)]
    if synchronized:
        layers.insert(2, keras.layers.BatchNormalization(synchronized=True))
    return keras.Sequential([keras.layers.InputLayer([_FEATURES]), *layers, keras.layers.Dense(1)])


def _optimizer(keras: Any, model: str) -> Any:
    if model == "mobilenetv3small":
        # Small steps: normalizations over a replica's few rows blow up rounding, so that plain
        # TensorFlow parts from itself where it learns faster.
        return keras.optimizers.SGD(0.001)
    return keras.optimizers.Adam()


def _dataset(shape: tuple[int, ...], rows: int, batch: int) -> tf.data.Dataset:
    x = np.random.default_rng(0).standard_normal((rows, *shape)).astype(np.float32)
    flat = x.reshape(rows, -1)
    y = np.tanh(flat[:, :1] + flat[:, 1:2])
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch, drop_remainder=True)
    return dataset.with_options(options)


def _served_dataset(shape: tuple[int, ...], batch: int) -> tf.data.Dataset:
    """Workers draw from a dataset each, which must not end before the epoch."""
    return _dataset(shape, 2 * batch, batch).repeat()


# Losses, the peak of a step if it was measured, and reports if steps are rewritten.
_Trained = tuple[list[float], int | None, list[nfad.Report]]


class _ThirdStep:
    """Measures the third step; the second tells the sizes of what that replaces.

    Attributes:
        wanted: Whether it is to be measured.
        peak: What was measured, in bytes.
    """

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        self.peak: int | None = None
        self._recording = Recording(across_workers=True)
        self._marked = contextlib.ExitStack()

    def begin(self, step: int) -> None:
        """What is to be done before a step, by its number from 0."""
        if self.wanted and step == 1:
            self._recording.start()
        if self.wanted and step == 2:
            self._marked.enter_context(self._recording.marked())

    def end(self, step: int) -> None:
        """What is to be done after a step."""
        if self.wanted and step == 2:
            self._marked.close()
            self.peak = next((account.peak for account in self._recording.stop()), None)


def _fit(
    strategy: tf.distribute.Strategy,
    model: Any,
    batch: int,
    options: nfad.Options | None,
    third: _ThirdStep,
) -> _Trained:
    if options is not None:
        nfad.keras.optimize(model, options)
    report = nfad.keras.MemoryReport(print_fn=lambda _: None)
    # Where steps run elsewhere, Keras takes no callback that asks for every batch.
    served = isinstance(strategy, tf.distribute.ParameterServerStrategy)
    callbacks = [] if served else [report]
    if third.wanted and not served:
        keras = importlib.import_module("tf_keras")
        each = keras.callbacks.LambdaCallback(
            on_train_batch_begin=lambda step, logs: third.begin(step),
            on_train_batch_end=lambda step, logs: third.end(step),
        )
        callbacks.append(each)
    shape = model.input_shape[1:]
    data = _served_dataset(shape, batch) if served else _dataset(shape, _STEPS * batch, batch)
    steps = _STEPS if served else None
    fit = model.fit(data, epochs=2, steps_per_epoch=steps, verbose=0, callbacks=callbacks)
    reports = [] if options is None else nfad.keras.reports(model)
    return fit.history["loss"], third.peak or report.measured_peak, reports


def _loop(
    strategy: tf.distribute.Strategy,
    model: Any,
    batch: int,
    options: nfad.Options | None,
    third: _ThirdStep,
) -> _Trained:
    step = _function(_step_on_all(strategy, model), options)
    losses: list[float] = []
    data = _dataset(model.input_shape[1:], _STEPS * batch, batch)
    for number, (x, y) in enumerate(strategy.experimental_distribute_dataset(data)):
        third.begin(number)
        losses.append(float(step(x, y)))
        third.end(number)
    return losses, third.peak, getattr(step, "reports", [])


def _schedule(
    strategy: tf.distribute.Strategy,
    model: Any,
    batch: int,
    options: nfad.Options | None,
    third: _ThirdStep,
) -> _Trained:
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    step_on_all = _step_on_all(strategy, model)

    def next_step(iterator: Any) -> tf.Tensor:
        x, y = next(iterator)
        return step_on_all(x, y)

    step = _function(next_step, options)
    shape = model.input_shape[1:]
    per_worker = coordinator.create_per_worker_dataset(lambda: _served_dataset(shape, batch))
    iterator = iter(per_worker)
    losses: list[float] = []
    for _ in range(_STEPS):
        # Fetched before the next is scheduled: one worker at a time, as in `run`.
        losses.append(float(coordinator.schedule(step, args=(iterator,)).fetch()))
    return losses, None, getattr(step, "reports", [])


def _function(step: Callable[..., tf.Tensor], options: nfad.Options | None) -> Any:
    return tf.function(step) if options is None else nfad.function(step, options=options)


def _step_on_all(strategy: tf.distribute.Strategy, model: Any) -> Callable[..., tf.Tensor]:
    """A step of every replica; gives the loss over all of them."""
    optimizer = model.optimizer
    with strategy.scope():
        optimizer.build(model.trainable_variables)

    def step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            squares = tf.square(model(x, training=True) - y)
            loss = tf.nn.scale_regularization_loss(tf.reduce_mean(squares))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    def step_on_all(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        return strategy.reduce("SUM", strategy.run(step, (x, y)), axis=None)

    return step_on_all


def main(arguments: list[str]) -> None:
    """Runs one process.

    Args:
        arguments: Command-line arguments without the program's name.
    """
    asked = request.parse("nested_fad_tf.bench.distributed", "run", arguments)
    task = json.loads(os.environ.get("TF_CONFIG", "{}")).get("task", {}).get("type")
    if asked["strategy"] == _SERVED and task in ("ps", "worker"):
        serve()
    print(json.dumps(run(**asked)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
