"""One process of a distributed training run, plain or rewritten.

    python -m nested_fad_tf.bench.distributed --json '{"strategy": "mirrored", ...}'

Where it takes several processes, TF_CONFIG says which of them this is. Servers run until they are
stopped. The others print a line of JSON at the end: the losses, a sum over the final weights, and
the peak of one step in this process, if that was asked for.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

import nested_fad_tf as nfad
from nested_fad_tf.bench import cluster, request
from nested_fad_tf.report.third_step import ThirdStep

_FEATURES, _LAYERS = 256, 6
# Steps of an epoch; a loop takes one epoch's.
_STEPS, _EPOCHS = 8, 2
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
    batch = (_SERVED_BATCHES if served else _BATCHES)[model]
    options = nfad.Options(on_error="raise") if rewritten else None
    # A coordinator has no step to measure.
    if mode == "fit":
        trained = _fit(made, network, batch, options, measured and not served)
    elif served:
        trained = _schedule(made, network, batch, options)
    else:
        trained = _loop(made, network, batch, options, measured)
    return {
        "losses": trained.losses,
        "weights": sum(float(np.square(w, dtype=np.float64).sum()) for w in network.get_weights()),
        "peak_bytes": trained.peak,
        "changed": any(report.changed for report in trained.reports),
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


def _dataset(shape: tuple[int, ...], rows: int) -> tf.data.Dataset:
    x = np.random.default_rng(0).standard_normal((rows, *shape)).astype(np.float32)
    flat = x.reshape(rows, -1)
    y = np.tanh(flat[:, :1] + flat[:, 1:2])
    return tf.data.Dataset.from_tensor_slices((x, y))


def _data(strategy: tf.distribute.Strategy, shape: tuple[int, ...], batch: int) -> Any:
    """What `fit` takes: of one process an epoch, of several all, each its own rows only."""
    dataset = _dataset(shape, _STEPS * batch)
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return dataset.batch(batch, drop_remainder=True)

    def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        own = dataset.shard(context.num_input_pipelines, context.input_pipeline_id)
        rows = context.get_per_replica_batch_size(batch)
        return own.batch(rows, drop_remainder=True).repeat(_EPOCHS)

    return strategy.distribute_datasets_from_function(of_worker)


def _served_dataset(shape: tuple[int, ...], batch: int) -> tf.data.Dataset:
    """Workers draw from a dataset each, which must not end before the epoch."""
    return _dataset(shape, 2 * batch).batch(batch, drop_remainder=True).repeat()


@dataclass(frozen=True)
class _Trained:
    """What came of a training.

    Attributes:
        losses: One a step or an epoch.
        reports: On the steps, if they are rewritten.
        peak: Of one step in this process, in bytes; `None` where it wasn't measured.
    """

    losses: list[float]
    reports: list[nfad.Report]
    peak: int | None = None


class _MemoryReport(nfad.keras.MemoryReport):
    """The callback that users have, but that it measures processes which it may crash."""

    _across_workers = True


def _fit(
    strategy: tf.distribute.Strategy,
    model: Any,
    batch: int,
    options: nfad.Options | None,
    measured: bool,
) -> _Trained:
    if options is not None:
        nfad.keras.optimize(model, options)
    report = _MemoryReport(print_fn=lambda _: None)
    shape = model.input_shape[1:]
    served = isinstance(strategy, tf.distribute.ParameterServerStrategy)
    data = _served_dataset(shape, batch) if served else _data(strategy, shape, batch)
    steps = _STEPS if served or isinstance(data, tf.distribute.DistributedDataset) else None
    # Where steps run elsewhere, Keras takes no callback that asks for every batch.
    callbacks = [report] if measured else []
    fit = model.fit(data, epochs=_EPOCHS, steps_per_epoch=steps, verbose=0, callbacks=callbacks)
    reports = [] if options is None else nfad.keras.reports(model)
    return _Trained(fit.history["loss"], reports, report.measured_peak)


def _loop(
    strategy: tf.distribute.Strategy,
    model: Any,
    batch: int,
    options: nfad.Options | None,
    measured: bool,
) -> _Trained:
    step = _function(_step_on_all(strategy, model), options)
    third = ThirdStep(across_workers=True)
    losses: list[float] = []
    data = _data(strategy, model.input_shape[1:], batch)
    if isinstance(data, tf.data.Dataset):
        data = strategy.experimental_distribute_dataset(data)
    for number, (x, y) in zip(range(_STEPS), data, strict=False):
        if measured:
            third.begin(number)
        losses.append(float(step(x, y)))
        third.end(number)
    peak = None if third.account is None else third.account.peak
    return _Trained(losses, getattr(step, "reports", []), peak)


def _schedule(
    strategy: tf.distribute.Strategy,
    model: Any,
    batch: int,
    options: nfad.Options | None,
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
    return _Trained(losses, getattr(step, "reports", []))


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
