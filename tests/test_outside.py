"""Functions that are differentiated from outside: what they keep, and what is computed from it."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf
from traced import gelu_by_erfc

import nested_fad_tf as nfad

ROWS, WIDTH, DEPTH = 64, 128, 4
SIZE = ROWS * WIDTH * 4


def numbers(*shape, seed=0, scale=1.0):
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return tf.constant(scale * values)


def mish(h):
    return h * tf.tanh(tf.nn.softplus(h))


class Net(tf.Module):
    """Dense layers with an activation that may use `scale` and `bias`."""

    def __init__(self, activation):
        super().__init__()
        self.activation = activation
        self.weights = [
            tf.Variable(numbers(WIDTH, WIDTH, seed=i, scale=WIDTH**-0.5)) for i in range(DEPTH)
        ]
        self.scale = tf.Variable(1.0 + 0.1 * numbers(WIDTH, seed=8))
        self.bias = tf.Variable(0.1 * numbers(WIDTH, seed=9))

    @property
    def variables_list(self):
        return [*self.weights, self.scale, self.bias]

    def __call__(self, x):
        for weight in self.weights:
            x = self.activation(self, x @ weight)
        return x @ self.weights[0]


def normalised(net, h):
    mean, variance = tf.nn.moments(h, -1, keepdims=True)
    return mish((h - mean) * tf.math.rsqrt(variance + 1e-3) * net.scale + net.bias)


def dropped(net, h):
    return tf.nn.gelu(tf.nn.experimental.stateless_dropout(h, 0.1, [1, 2]))


def masked(net, h):
    positive = h > 0.0
    return tf.where(positive, tf.sqrt(tf.where(positive, h + 0.1, 1.0)), 0.1 * h) * tf.sigmoid(h)


# What plain TensorFlow keeps of a GELU: one that is computed by erf has fewer ops.
GELU = 6 if gelu_by_erfc() else 5

# Activation, tensors of full size that plain TensorFlow keeps a layer, and that are kept here.
ACTIVATIONS = {
    "mish": (lambda net, h: mish(h), 3, 1),
    "gelu": (lambda net, h: tf.nn.gelu(h), GELU, 1),
    "gelu_tanh": (lambda net, h: tf.nn.gelu(h, approximate=True), 7, 1),
    "swish": (lambda net, h: h * tf.sigmoid(h), 3, 1),
    "bias": (lambda net, h: mish(tf.nn.bias_add(h, net.bias)), 3, 1),
    "norm": (normalised, 6, 1),
    "dropout": (dropped, GELU + 1.25, 1.25),
    "where": (masked, 5.25, 1),
    "relu": (lambda net, h: tf.nn.relu(h), 1, 1),
    "elu": (lambda net, h: tf.nn.elu(h), 1, 1),
}
OPTIONS = [
    nfad.Options(strategy=strategy, fuse=fuse, min_bytes=1024, on_error="raise")
    for strategy, fuse in [("auto", "ops"), ("auto", "xla"), ("forward_ad", "ops")]
]
BY_STRATEGY = pytest.mark.parametrize("options", OPTIONS, ids=lambda o: f"{o.strategy}-{o.fuse}")


def assert_close(actual, expected, rtol=1e-5):
    tf.nest.assert_same_structure(actual, expected)
    for a, e in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True):
        a, e = np.asarray(tf.convert_to_tensor(a)), np.asarray(tf.convert_to_tensor(e))
        np.testing.assert_allclose(a, e, rtol=0, atol=rtol * np.abs(e).max(initial=1e-30))


def eager_gradients(function, net, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_mean(tf.square(function(x)))
    return loss, tape.gradient(loss, [*net.variables_list, x], unconnected_gradients="zero")


def kept_tensors(concrete) -> float:
    """What the forward function hands to the backward function, in tensors of full size a layer."""
    forward, _ = concrete._delayed_rewrite_functions.forward_backward()
    held = {id(t): t for t in forward.graph.outputs if t.shape.rank == 2 and t.shape[1] == WIDTH}
    sizes = [t.dtype.size / 4 for t in held.values() if t.shape[0] != WIDTH]
    return (sum(sizes) - 2) / DEPTH  # the function's result, and its argument


@pytest.mark.parametrize(
    ("options", "rows"),
    [(OPTIONS[0], ROWS), (OPTIONS[0], None), (OPTIONS[1], ROWS), (OPTIONS[2], None)],
    ids=["auto-static", "auto-dynamic", "xla-static", "forward_ad-dynamic"],
)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_tape_around_the_function(name, rows, options):
    activation, before, after = ACTIVATIONS[name]
    net, x = Net(activation), numbers(ROWS, WIDTH)
    spec = tf.TensorSpec([rows, WIDTH])
    plain = tf.function(net.__call__, input_signature=[spec])
    rewritten = nfad.rewrite(net.__call__, spec, options=options)
    assert_close(eager_gradients(rewritten, net, x), eager_gradients(plain, net, x))
    report = rewritten.reports[-1]
    if rows and options.strategy == "auto":
        assert kept_tensors(plain.get_concrete_function()) == before
        assert kept_tensors(rewritten.get_concrete_function(spec)) == after
        assert report.kept_bytes_before - report.kept_bytes_after == pytest.approx(
            (before - after) * DEPTH * SIZE, rel=0.25
        )
    assert report.changed == (before > after) or options.strategy == "forward_ad"


@pytest.mark.parametrize(
    "name",
    ["mish", *(pytest.param(n, marks=pytest.mark.slow) for n in ("where", "gelu", "norm"))],
)
@BY_STRATEGY
def test_higher_derivatives(name, options):
    net, x = Net(ACTIVATIONS[name][0]), numbers(ROWS, WIDTH)
    rewritten = nfad.rewrite(net.__call__, x, options=options)
    assert rewritten.reports[-1].changed or options.strategy == "forward_ad"

    def penalty(function):
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                inner.watch(x)
                loss = tf.reduce_mean(tf.square(function(x)))
            slope = inner.gradient(loss, x)
            total = loss + tf.reduce_sum(tf.square(slope))
        return slope, outer.gradient(total, net.weights)

    def tangent(function):
        with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
            y = function(x)
        return accumulator.jvp(y)

    def hessian_product(function):
        with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = tf.reduce_sum(tf.square(function(x)))
            slope = tape.gradient(y, x)
        return accumulator.jvp(slope)

    plain = tf.function(net.__call__)
    for check in (penalty, tangent, hessian_product):
        assert_close(check(rewritten), check(plain), rtol=2e-5)


@pytest.mark.parametrize("traced_before", [False, True])
@BY_STRATEGY
def test_a_function_in_a_step(traced_before, options):
    net, x = Net(lambda net, h: mish(h)), numbers(ROWS, WIDTH)

    def make(wrap):
        inner = wrap(net.__call__)
        if traced_before:
            inner(x)
        return wrap(lambda x: eager_gradients(inner, net, x)), inner

    plain, _ = make(tf.function)
    rewritten, inner = make(lambda f: nfad.function(f, options=options))
    assert_close(rewritten(x), plain(x))
    assert inner.reports[-1].changed


@pytest.mark.parametrize("options", OPTIONS[:1])
def test_loops_and_branches(options):
    net, x = Net(lambda net, h: mish(h)), numbers(ROWS, WIDTH)
    weight = net.weights[0]

    def loop(x):
        body = lambda i, h: (i + 1, mish(h @ weight))  # noqa: E731
        return tf.while_loop(lambda i, h: i < 5, body, [0, x])[1]

    def branch(x):
        return tf.cond(
            tf.reduce_sum(x) > 0.0, lambda: mish(x @ weight), lambda: tf.nn.gelu(x) @ weight
        )

    def scan(x):
        return tf.scan(lambda h, _: mish(h @ weight), tf.range(3), initializer=x)

    def mapped(x):
        return tf.map_fn(lambda row: mish(row[None] @ weight)[0], x)

    for function in (loop, branch, scan, mapped):

        def step(x, function=function):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(function(x)))
            return loss, tape.gradient(loss, weight)

        with nfad.rewriting(options.replace(min_bytes=256)) as session:
            actual = tf.function(step)(x)
        assert_close(actual, tf.function(step)(x))
        assert any(report.changed for report in session.reports), function.__name__


def test_broadcasting_of_unknown_dimensions():
    def function(a, b):
        return tf.exp(mish(a) * tf.nn.gelu(b) + a) @ tf.ones([WIDTH, 1])

    spec = tf.TensorSpec([None, WIDTH])
    options = nfad.Options(min_bytes=1, on_error="raise")
    rewritten = nfad.rewrite(function, spec, spec, options=options)
    assert rewritten.reports[-1].changed
    for rows_a, rows_b in [(5, 5), (1, 5), (5, 1)]:
        arguments = [numbers(rows_a, WIDTH), numbers(rows_b, WIDTH, seed=1)]
        found = []
        for called in (function, rewritten):
            with tf.GradientTape() as tape:
                tape.watch(arguments)
                y = called(*arguments)
            found.append(tape.gradient(y, arguments))
        assert_close(found[1], found[0])


@pytest.mark.parametrize("fuse", ["ops", "xla"])
def test_a_chain_that_reads_another_chains_result(fuse):
    """The first result is read by a matrix product, too, so that it ends a cone."""
    weights = [tf.Variable(numbers(WIDTH, WIDTH, seed=i, scale=0.1)) for i in range(3)]

    def function(x):
        h = mish(x @ weights[0])
        return (h @ weights[1] + tf.nn.gelu(h)) @ weights[2]

    x = numbers(ROWS, WIDTH)
    rewritten = nfad.rewrite(function, x, options=OPTIONS[0].replace(fuse=fuse))
    assert len(rewritten.reports[-1].chains) == 2
    plain, found = tf.function(function), []
    for called in (plain, rewritten):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(called(x))
        found.append(tape.gradient(loss, weights))
    assert_close(found[1], found[0])
    before = kept_tensors(plain.get_concrete_function(x)) * DEPTH
    # x @ w for mish, h for the product and gelu, the sum for the last product.
    assert kept_tensors(rewritten.get_concrete_function(x)) * DEPTH == 3 < before


@pytest.mark.parametrize("through", ["list", "complex"])
def test_gradients_that_come_by_tensors_that_are_no_floats(through):
    """One factor of the chain comes by a TensorArray or by complex numbers, one directly."""

    def function(x, scale):
        if through == "list":
            y = tf.TensorArray(tf.float32, ROWS).unstack(x).stack()
        else:
            y = tf.abs(tf.signal.rfft(x))
        y = y * scale[:, : y.shape[1]]
        return y @ tf.ones([y.shape[1], 1])

    arguments = [numbers(ROWS, WIDTH), numbers(ROWS, WIDTH, seed=1)]
    found = []
    for called in (tf.function(function), nfad.rewrite(function, *arguments, options=OPTIONS[0])):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            y = called(*arguments)
        found.append(tape.gradient(y, arguments, unconnected_gradients="zero"))
    assert_close(found[1], found[0])


def test_equality_is_not_asked_twice():
    def function(x):
        h = mish(0.3 * x * x)
        largest = tf.reduce_max(h, -1, keepdims=True)
        return tf.where(tf.equal(h, largest), tf.exp(h), 0.1 * h) @ tf.ones([WIDTH, 1])

    x = numbers(ROWS, WIDTH)
    rewritten = nfad.rewrite(function, x, options=OPTIONS[0].replace(fuse="xla"))
    assert rewritten.reports[-1].changed
    found = []
    for called in (tf.function(function), rewritten):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = called(x)
        found.append(tape.gradient(y, x))
    assert_close(found[1], found[0])


def test_a_custom_gradient_inside_is_left_alone():
    @tf.custom_gradient
    def clipped(h):
        return mish(h), lambda dy: tf.clip_by_value(dy, -1e-4, 1e-4)

    net, x = Net(lambda net, h: clipped(h)), numbers(ROWS, WIDTH)
    rewritten = nfad.rewrite(net.__call__, x, options=OPTIONS[0])
    plain = tf.function(net.__call__)
    assert_close(eager_gradients(rewritten, net, x), eager_gradients(plain, net, x))


@pytest.mark.parametrize("options", OPTIONS[::2], ids=["auto", "forward_ad"])
def test_a_saved_model_keeps_the_gradients(options, tmp_path):
    net, x = Net(normalised), numbers(ROWS, WIDTH)
    expected = eager_gradients(tf.function(net.__call__), net, x)
    module = tf.Module()
    module.variables_list = net.variables_list
    concrete = nfad.rewrite(net.__call__, x, options=options).get_concrete_function(x)
    module.call = concrete
    saving = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
    tf.saved_model.save(module, tmp_path / "model", options=saving)
    loaded = tf.saved_model.load(tmp_path / "model")
    assert_close(eager_gradients(loaded.call, loaded, x), expected)


def named(net):
    @tf.function
    def call(x, *, scale, twice=False):
        y = scale * net(x)
        return {"y": y, "z": 2.0 * y if twice else y}

    specs = tf.TensorSpec([None, WIDTH]), tf.TensorSpec([])
    return call, call.get_concrete_function(specs[0], scale=specs[1], twice=True)


def test_a_concrete_function():
    net, x = Net(lambda net, h: mish(h)), numbers(ROWS, WIDTH)
    call, concrete = named(net)
    before = len(concrete.graph.get_operations())
    rewritten = nfad.rewrite(concrete, options=OPTIONS[0])
    expected, actual = (
        eager_gradients(lambda x, f=f: f(x, scale=tf.constant(0.5))["z"], net, x)
        for f in (functools.partial(call, twice=True), rewritten)
    )
    assert_close(actual, expected)
    report = rewritten.reports[0]
    assert report.changed and report.kept_bytes_after < report.kept_bytes_before
    assert nfad.explain(concrete, options=OPTIONS[0]).kept_bytes_after == report.kept_bytes_after
    assert len(concrete.graph.get_operations()) == before


def test_a_concrete_training_step():
    net, x = Net(lambda net, h: mish(h)), numbers(ROWS, WIDTH)

    @tf.function
    def step(x):
        return eager_gradients(net, net, x)

    concrete = step.get_concrete_function(x)
    rewritten = nfad.rewrite(concrete, options=OPTIONS[0])
    assert_close(rewritten(x), concrete(x))
    report = rewritten.reports[-1]
    assert report.predicted_peak_after < report.predicted_peak_before


def test_a_concrete_function_of_a_saved_model(tmp_path):
    net, x = Net(lambda net, h: mish(h)), numbers(ROWS, WIDTH)
    net.call, concrete = named(net)
    tf.saved_model.save(net, tmp_path / "model", signatures=concrete)
    model = tf.saved_model.load(tmp_path / "model")
    loaded = model.signatures["serving_default"]
    rewritten = nfad.rewrite(loaded, options=OPTIONS[0])
    assert rewritten.reports[-1].changed
    arguments = {"x": x, "scale": tf.constant(0.5)}
    assert_close(rewritten(**arguments), loaded(**arguments))
