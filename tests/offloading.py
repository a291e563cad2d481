"""Steps on one of two logical CPUs, which passes for an accelerator; the other one is the host.

Run as a process of its own, since devices are made once; writes what came of it into a JSON file.
"""

from __future__ import annotations

import json
import pathlib
import sys
from unittest import mock

import numpy as np
import tensorflow as tf
from traced import numbers, optimized_nodes

import nested_fad_tf as nfad

LAYERS, ROWS, WIDTH = 16, 512, 128
ACCELERATOR, HOST = "/device:CPU:1", "/device:CPU:0"


def make_step(device, noisy):
    """A step of layers, whose noise can't be made again: what reads it has to be kept."""
    weights = [tf.Variable(numbers(WIDTH, WIDTH, seed=i, scale=0.08)) for i in range(LAYERS)]

    def step(x):
        with tf.device(device), tf.GradientTape() as tape:
            h = x
            for i, weight in enumerate(weights):
                h = tf.nn.gelu(h @ weight)
                if noisy:
                    h *= 0.5 + tf.random.uniform(tf.shape(h), seed=i)
            loss = tf.reduce_sum(h * h)
            return loss, tape.gradient(loss, weights)

    return step


def result(options, spec=None, device=ACCELERATOR, noisy=False):
    """What a rewritten step gives, what is reported, and where it ran."""
    x, step = numbers(ROWS, WIDTH, seed=99), make_step(device, noisy)
    function = nfad.function(step, options=options, input_signature=spec and [spec])
    loss, gradients = function(x)
    expected_loss, expected = tf.function(step)(x)
    (report,) = function.reports
    nodes = optimized_nodes(function, x).values()
    return {
        "loss": abs(float(loss / expected_loss) - 1.0),
        "gradients": max(
            float(np.max(np.abs(a - b)) / np.max(np.abs(b)))
            for a, b in zip(gradients, expected, strict=True)
        ),
        "changed": report.changed,
        "note": report.note,
        "peak": report.predicted_peak_after,
        "bytes_of_host_copies": [k.bytes for k in report.kept if k.format == "host copy"],
        "kept": len(report.kept),
        "to_host": sum(HOST in n.device for n in nodes if n.name.endswith("/to_host")),
        "from_host": sum(HOST in n.device for n in nodes if n.name.endswith("/from_host")),
        "waiting": sum(
            any(i.startswith("^") for i in n.input)
            for n in nodes
            if n.name.endswith("/from_host") and HOST in n.device
        ),
        "back": sum(ACCELERATOR in n.device for n in nodes if n.name.endswith("/back")),
    }


def on_cpu(device):
    return ACCELERATOR not in device


def main():
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    options = nfad.Options(on_error="raise", fuse="ops", min_bytes=1024)
    offload = options.replace(offload=True)
    with mock.patch("nested_fad_tf.plan.offload.on_cpu", on_cpu):
        without, everything = result(options), result(offload)
        noisy = result(offload, noisy=True)
        found = {
            "without": without,
            "all": everything,
            "unknown batch": result(
                offload.replace(nominal_size=ROWS), tf.TensorSpec([None, WIDTH])
            ),
            "compiled groups": result(offload.replace(fuse="xla")),
            "met without": result(offload.replace(budget=int(0.6 * without["peak"]))),
            "noisy": noisy,
            "met": result(offload.replace(budget=int(1.01 * noisy["peak"])), noisy=True),
            "missed": result(offload.replace(budget=1000), noisy=True),
            "on the host": result(offload, device=HOST),
        }
    pathlib.Path(sys.argv[1]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
