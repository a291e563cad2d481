"""One process of a distributed training run, plain or rewritten.

    python -m nested_fad_tf.bench.distributed --json '{"strategy": "mirrored", ...}'

Where it takes several processes, TF_CONFIG says which of them this is. Servers run until they are
stopped. The others print a line of JSON at the end: the losses, a sum over the final weights, and
the peak of one step in this process.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

import nested_fad_tf as nfad
from nested_fad_tf.report.allocations import Recording

STRATEGIES = ("one_device", "mirrored", "multi_worker", "parameter_server")
MODES = ("fit", "loop")

_FEATURES, _LAYERS = 256, 6
_BATCH, _STEPS = 2048, 8
# Of a server only the process can be measured from outside, which is large without a step.
_SERVED_BATCH = 16384
# Keras 3 trains in one process only; tf_keras is what trains in several.
_SEVERAL_PROCESSES = ("multi_worker", "parameter_server")
# Collectives in the forward and the backward pass; a parameter server has none.
_SYNCHRONIZED = ("mirrored", "multi_worker")


def make_strategy(name: str) -> tf.distribute.Strategy:
    """Makes a strategy on this machine's processor.

    Args:
        name: One of `STRATEGIES`.

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
    if name == "parameter_server":
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        return tf.distribute.ParameterServerStrategy(resolver)
    raise ValueError(f"strategy must be one of {STRATEGIES}, not {name!r}")


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


def run(strategy: str, mode: str, rewritten: bool) -> dict[str, Any]:
    """Trains for some steps.

    Args:
        strategy: One of `STRATEGIES`.
        mode: "fit", or "loop" for a loop of `strategy.run` or of `coordinator.schedule`.
        rewritten: Whether the steps are rewritten.

    Returns:
        losses: one a step or an epoch; weights: the sum of their squares; peak_bytes: of one step
        in this process, `None` where it can't be measured; changed: whether a step was rewritten.
    """
    made = make_strategy(strategy)
    keras = importlib.import_module("tf_keras" if strategy in _SEVERAL_PROCESSES else "keras")
    with made.scope():
        model = _model(keras, synchronized=strategy in _SYNCHRONIZED)
        # One worker at a time: two that update the same weights at once never do the same twice.
        served = {"steps_per_execution": _STEPS} if strategy == "parameter_server" else {}
        model.compile(keras.optimizers.Adam(), "mse", **served)
    train = _fit if mode == "fit" else _schedule if strategy == "parameter_server" else _loop
    nominal = _SERVED_BATCH if strategy == "parameter_server" else _BATCH // 2
    options = nfad.Options(on_error="raise", nominal_size=nominal) if rewritten else None
    result = train(made, model, options)
    weights = sum(float(np.square(w, dtype=np.float64).sum()) for w in model.get_weights())
    return {**result, "weights": weights}


def _model(keras: Any, synchronized: bool) -> Any:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(_FEATURES, activation="gelu") for _ in range(_LAYERS)]
    if synchronized:
        layers.insert(2, keras.layers.BatchNormalization(synchronized=True))
    return keras.Sequential([keras.layers.InputLayer([_FEATURES]), *layers, keras.layers.Dense(1)])


def _data(rows: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).standard_normal((rows, _FEATURES)).astype(np.float32)
    return x, np.tanh(x[:, :1] + x[:, 1:2])


def _dataset(rows: int = _BATCH * _STEPS, batch: int = _BATCH) -> tf.data.Dataset:
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    dataset = tf.data.Dataset.from_tensor_slices(_data(rows)).batch(batch, drop_remainder=True)
    return dataset.with_options(options)


def _served_dataset() -> tf.data.Dataset:
    """Workers draw from a dataset each, which must not end before the epoch."""
    return _dataset(2 * _SERVED_BATCH, _SERVED_BATCH).repeat()


def _fit(strategy: tf.distribute.Strategy, model: Any, options: nfad.Options | None) -> Any:
    if options is not None:
        nfad.keras.optimize(model, options)
    report = nfad.keras.MemoryReport(print_fn=lambda _: None)
    # Where steps run elsewhere, Keras takes no callback that asks for every batch.
    served = isinstance(strategy, tf.distribute.ParameterServerStrategy)
    callbacks = [] if served else [report]
    data, steps = (_served_dataset(), _STEPS) if served else (_dataset(), None)
    fit = model.fit(data, epochs=2, steps_per_epoch=steps, verbose=0, callbacks=callbacks)
    changed = options is not None and any(r.changed for r in nfad.keras.reports(model))
    return {"losses": fit.history["loss"], "peak_bytes": report.measured_peak, "changed": changed}


def _loop(strategy: tf.distribute.Strategy, model: Any, options: nfad.Options | None) -> Any:
    step_on = _replica_step(strategy, model)
    wrap = tf.function if options is None else nfad.function(options=options)

    @wrap
    def step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        return strategy.reduce("SUM", strategy.run(step_on, (x, y)), axis=None)

    losses: list[float] = []
    peaks: list[int] = []
    for x, y in strategy.experimental_distribute_dataset(_dataset()):
        with _peak_of_third(len(losses), peaks):
            losses.append(float(step(x, y)))
    changed = options is not None and any(r.changed for r in step.reports)
    return {"losses": losses, "peak_bytes": peaks[0] if peaks else None, "changed": changed}


def _schedule(strategy: tf.distribute.Strategy, model: Any, options: nfad.Options | None) -> Any:
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    step_on = _replica_step(strategy, model)
    wrap = tf.function if options is None else nfad.function(options=options)

    @wrap
    def step(iterator: Any) -> tf.Tensor:
        x, y = next(iterator)
        return strategy.reduce("SUM", strategy.run(step_on, (x, y)), axis=None)

    per_worker = coordinator.create_per_worker_dataset(_served_dataset)
    iterator = iter(per_worker)
    losses = []
    for _ in range(_STEPS):
        # Fetched before the next is scheduled: one worker at a time, as in `run`.
        losses.append(float(coordinator.schedule(step, args=(iterator,)).fetch()))
    changed = options is not None and any(r.changed for r in step.reports)
    return {"losses": losses, "peak_bytes": None, "changed": changed}


def _replica_step(strategy: tf.distribute.Strategy, model: Any) -> Callable[..., tf.Tensor]:
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

    return step


@contextlib.contextmanager
def _peak_of_third(step: int, peaks: list[int]) -> Iterator[None]:
    """Records the second step and the third, and measures the third."""
    global _recording
    if step == 1:
        _recording = Recording()
        _recording.start()
    if step != 2 or _recording is None:
        yield
        return
    with _recording.marked():
        yield
    peaks += [account.peak for account in _recording.stop()]


_recording: Recording | None = None


def main(arguments: list[str]) -> None:
    """Runs one process.

    Args:
        arguments: Command-line arguments without the program's name.
    """
    parser = argparse.ArgumentParser(prog="python -m nested_fad_tf.bench.distributed")
    parser.add_argument("--json", required=True, help="arguments of run(), as a JSON object")
    request = json.loads(parser.parse_args(arguments).json)
    task = json.loads(os.environ.get("TF_CONFIG", "{}")).get("task", {}).get("type")
    if request["strategy"] == "parameter_server" and task in ("ps", "worker"):
        serve()
    print(json.dumps(run(**request)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
