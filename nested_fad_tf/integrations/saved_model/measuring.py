"""What it takes to differentiate a signature of a SavedModel, measured on made-up inputs."""

from __future__ import annotations

import pathlib
from typing import Any

import tensorflow as tf

from nested_fad_tf.errors import SavedModelError
from nested_fad_tf.graph.sizes import NOMINAL
from nested_fad_tf.integrations.saved_model import files, unknown
from nested_fad_tf.report import memory
from nested_fad_tf.report.memory import Measurement

_SEED = (1, 2)


def measure(
    folder: pathlib.Path, signature: str, nominal_size: int | None = None, runs: int = 5
) -> Measurement:
    """Runs a signature and its gradients, as one step.

    The step differentiates the sum of the floating outputs by the trainable variables, and by the
    floating inputs where there are none. No variable is trained, but what the signature itself
    assigns changes in memory; the folder is only read.

    Args:
        folder: The SavedModel.
        signature: The signature's name.
        nominal_size: What unknown dimensions of its inputs are to be; `NOMINAL` by default.
        runs: How many calls are timed.

    Returns:
        The measurement.

    Raises:
        SavedModelError: If the model can't be read, has no such signature, or that one can't be
            differentiated or run on made-up inputs.
    """
    loaded = files.load(folder, "cannot be loaded")
    signatures = getattr(loaded, "signatures", {})
    if signature not in signatures:
        has = ", ".join(map(repr, sorted(signatures))) or "none"
        raise SavedModelError(f"unknown signature {signature!r} to measure; the model has: {has}")
    function = signatures[signature]
    specs = function.structured_input_signature[1]
    inputs = {name: _made_up(spec, nominal_size or NOMINAL) for name, spec in specs.items()}
    step = tf.function(_step(function), autograph=False)
    try:
        return memory.measure(step, inputs, runs=runs)
    except (ValueError, TypeError, tf.errors.OpError) as error:
        why = unknown.explained(str(error)) or type(error).__name__
        raise SavedModelError(
            f"{folder}: signature {signature!r} does not run on random inputs: {why}"
        ) from error


def _step(function: Any) -> Any:
    variables = function.graph.trainable_variables

    def step(inputs: dict[str, tf.Tensor]) -> list[tf.Tensor]:
        floating = [x for x in inputs.values() if x.dtype.is_floating]
        with tf.GradientTape() as tape:
            tape.watch(floating)
            outputs = [y for y in function(**inputs).values() if y.dtype.is_floating]
            if not outputs:
                raise ValueError("none of its outputs is a floating-point tensor")
            total = tf.add_n([tf.reduce_sum(tf.cast(y, tf.float32)) for y in outputs])
        found = tape.gradient(total, variables or floating)
        return [gradient for gradient in found if gradient is not None]

    return step


def _made_up(spec: tf.TensorSpec, nominal_size: int) -> tf.Tensor:
    """Normal numbers; zeros for integers, which may be indices, booleans and strings."""
    shape = spec.shape.as_list() if spec.shape.rank is not None else [nominal_size]
    sizes = [nominal_size if size is None else size for size in shape]
    if spec.dtype.is_floating:
        return tf.cast(tf.random.stateless_normal(sizes, _SEED), spec.dtype)
    return tf.zeros(sizes, spec.dtype)
