"""Fine-tunes a SavedModel without this package, as its users would.

    python finetune.py MODEL DATA STEPS

MODEL has an endpoint `train` (from a batch to logits) and a list `tuned` of the variables to train;
DATA is an .npz file with arrays `x` and `labels`. The last line printed is the answer, JSON: the
loss of each step, the final values' sum of squares, and how far one step raises the resident set.

Run as a file, not as a module: nothing of nested_fad_tf may be imported here.
"""

from __future__ import annotations

import json
import pathlib
import sys

import numpy as np
import tensorflow as tf

_RATE = 0.01


def main(folder: str, data: str, steps: int) -> None:
    """Trains for some steps and prints what came out.

    Args:
        folder: The SavedModel.
        data: The .npz file.
        steps: How many.
    """
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = tf.saved_model.load(folder)
    arrays = np.load(data)
    x, labels = tf.constant(arrays["x"]), tf.constant(arrays["labels"])
    tuned = list(model.tuned)

    @tf.function
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = model.train(x)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses)
        for variable, gradient in zip(tuned, tape.gradient(loss, tuned), strict=True):
            if gradient is not None:
                variable.assign_sub(_RATE * tf.convert_to_tensor(gradient))
        return loss

    losses = [float(step()) for _ in range(steps)]
    squares = sum(float(tf.reduce_sum(tf.square(v))) for v in tuned)
    peak = _resident_peak(step)
    assert "nested_fad_tf" not in sys.modules
    print(json.dumps({"losses": losses, "squares": squares, "resident_peak": peak}))


def _resident_peak(step) -> int | None:  # type: ignore[no-untyped-def]
    """The rise of the resident set in one step; None where it can't be measured.

    The same as nested_fad_tf/report/process.py, which can't be imported here.
    """
    status = pathlib.Path("/proc/self/status")
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    except OSError:
        return None
    before = _field(status, "VmRSS")
    step()
    return _field(status, "VmHWM") - before


def _field(status: pathlib.Path, name: str) -> int:
    lines = status.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
