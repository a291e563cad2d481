"""Derivatives of two SavedModels, which should be the same: test_saved_model_takers.py runs it.

    python saved_model_derivatives.py MODEL REWRITTEN DATA

Both have functions of one argument by the names of the arrays in DATA, and a list `weights`. Prints
a line of JSON: by function and kind of derivative the largest difference, relative to the largest
entry. Run as a file, not as a module: nothing of nested_fad_tf may be imported here.
"""

import json
import sys

import numpy as np
import tensorflow as tf


def loss_of(call, x):
    """A loss that depends on the output in no simple way."""
    return tf.reduce_mean(tf.square(call(x)))


def gradients(call, x, weights):
    """First derivatives."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = loss_of(call, x)
    return loss, tape.gradient(loss, [*weights, x], unconnected_gradients="zero")


def penalty(call, x, weights):
    """The gradient of the square of a gradient."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            loss = loss_of(call, x)
        slope = tf.reduce_sum(tf.square(inner.gradient(loss, x)))
    return tape.gradient(slope, [*weights, x], unconnected_gradients="zero")


def hessian_product(call, x, weights):
    """Forward mode, through the function and through its gradient."""
    with tf.autodiff.ForwardAccumulator(x, tf.cos(x)) as accumulator:
        _, found = gradients(call, x, weights)
    return [accumulator.jvp(t, "zero") for t in found]


def difference(actual, expected):
    """The largest difference of two nests of tensors, in parts of the largest entry."""
    pairs = zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True)
    return float(max(np.abs(a - b).max() / (np.abs(b).max() + 1e-7) for a, b in pairs))


def main(plain, rewritten, data):
    """Compares all derivatives of all functions."""
    models = [tf.saved_model.load(folder) for folder in (plain, rewritten)]
    kinds = (gradients, penalty, hessian_product)
    found = {}
    for name, array in np.load(data).items():
        # Forward mode fails in loops that were loaded, plain or not.
        for kind in kinds[:2] if name == "looped" else kinds:
            x = tf.constant(array)
            old, new = (kind(getattr(m, name), x, m.weights) for m in models)
            found[f"{name} {kind.__name__}"] = difference(new, old)
    assert "nested_fad_tf" not in sys.modules
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
