"""Nested functions in a step: planned as one graph, with the same results and effects."""

from __future__ import annotations

import pytest
import tensorflow as tf
from traced import assert_same, mish, numbers

import nested_fad_tf as nfad

ROWS, WIDTH, LAYERS = 64, 32, 4
OPTIONS = nfad.Options(on_error="raise", fuse="ops", min_bytes=1024)
WEIGHTS = [tf.Variable(numbers(WIDTH, WIDTH, seed=i, scale=0.3)) for i in range(LAYERS)]
COUNT = tf.Variable(0.0)
X = numbers(ROWS, WIDTH, seed=9)


def layer(x, w):
    return mish(x @ w)


def layers_of(wrap, layer=layer):
    """A model of which every layer, and the whole, is a function."""
    inner = wrap(layer)

    def model(x):
        for w in WEIGHTS:
            x = inner(x, w)
        return x

    return wrap(model)


def gradients_of(model, **tape_arguments):
    def step(x):
        with tf.GradientTape(**tape_arguments) as tape:
            loss = tf.reduce_mean(tf.square(model(x)))
        return loss, tape.gradient(loss, WEIGHTS)

    return step


def unwrapped(function):
    return function


def calls(function):
    """Nested functions that still run."""
    graph = function.get_concrete_function(X).graph
    kinds = ("PartitionedCall", "StatefulPartitionedCall")
    read = {t.op.name for op in graph.get_operations() for t in op.inputs}
    read |= {c.name for op in graph.get_operations() for c in op.control_inputs}
    read |= {op.name for op in graph.control_outputs} | {t.op.name for t in graph.outputs}
    ops = [op for op in graph.get_operations() if op.type in kinds and op.name in read]
    return [op for op in ops if not op.name.startswith("nested_fad/")]


def peak_of(function):
    return function.reports[-1].predicted_peak_after


def rewritten(step, options=OPTIONS):
    function = nfad.function(step, options=options)
    function.get_concrete_function(X)
    return function


def check(make_step):
    """Compares with plain TensorFlow, and the plan with that of the same step without functions.

    Args:
        make_step: Takes what wraps functions, and makes a step of them.
    """
    expected = tf.function(make_step(tf.function))(X)
    function = rewritten(make_step(tf.function))
    assert_same(function(X), expected)
    assert not calls(function)
    assert function.reports[-1].changed
    assert peak_of(function) <= 1.02 * peak_of(rewritten(make_step(unwrapped)))


@pytest.mark.parametrize("persistent", [False, True])
def test_functions_in_functions(persistent):
    check(lambda wrap: gradients_of(layers_of(wrap), persistent=persistent))


def test_functions_traced_before_the_step():
    model = layers_of(tf.function)
    model(X)
    expected = tf.function(gradients_of(layers_of(tf.function)))(X)
    function = rewritten(gradients_of(model))
    assert_same(function(X), expected)
    assert not calls(function)
    assert peak_of(function) <= 1.02 * peak_of(rewritten(gradients_of(layers_of(unwrapped))))


def test_symbolic_gradients():
    def make_step(wrap):
        model = layers_of(wrap)

        def step(x):
            loss = tf.reduce_mean(tf.square(model(x)))
            return loss, tf.gradients(loss, [w.handle for w in WEIGHTS])

        return step

    expected = tf.function(make_step(tf.function))(X)
    assert_same(rewritten(make_step(tf.function))(X), expected)


def test_structures_and_what_is_passed_through():
    def make_step(wrap):
        @wrap
        def split(x, w):
            return {"same": x, "other": (mish(x @ w), None)}, tf.shape(x)

        def model(x):
            for w in WEIGHTS:
                found, size = split(x, w)
                x = found["same"] + found["other"][0] * tf.cast(size[0], tf.float32) / ROWS
            return x

        return gradients_of(model)

    check(make_step)


def test_the_result_of_a_call_is_the_result_of_the_step():
    def make_step(wrap):
        model = layers_of(wrap)

        def step(x):
            with tf.GradientTape() as tape:
                y = model(x)
            return y, tape.gradient(y, WEIGHTS)

        return step

    check(make_step)


def test_effects_happen_once_and_in_order():
    @tf.function
    def counted(x, w):
        before = COUNT.read_value()
        COUNT.assign_add(1.0)
        return mish(x @ w) * before

    def step(x):
        with tf.GradientTape() as tape:
            first = COUNT.read_value()
            y = counted(x, WEIGHTS[0])
            middle = COUNT.read_value()
            y = counted(y, WEIGHTS[1]) * COUNT
            COUNT.assign(10.0 * COUNT)
            loss = tf.reduce_mean(tf.square(counted(y, WEIGHTS[2])))
        return loss, tape.gradient(loss, WEIGHTS[:3]), first, middle, COUNT.read_value()

    results = []
    for function in (tf.function(step), rewritten(step)):
        COUNT.assign(1.0)
        results.append([function(X), function(X), COUNT.numpy()])
    assert_same(results[1], results[0])
    assert results[0][0][2:] == (1.0, 2.0, 31.0)
    assert not calls(function)


def test_the_same_random_numbers():
    def make_step():
        tf.random.set_seed(3)
        stateful = tf.function(lambda x: mish(tf.nn.dropout(x, 0.5)))
        stateless = tf.function(
            lambda x, i: mish(tf.nn.experimental.stateless_dropout(x, 0.5, seed=[i, 0]))
        )

        def model(x):
            for i, w in enumerate(WEIGHTS):
                x = stateless(stateful(x @ w), i)
            return x

        return gradients_of(model)

    plain = tf.function(make_step())
    expected = [plain(X) for _ in range(2)]
    function = nfad.function(make_step(), options=OPTIONS)
    assert_same([function(X) for _ in range(2)], expected)
    assert not calls(function) and function.reports[-1].changed


@pytest.mark.parametrize("mode", ["cond", "while", "inside", "switch"])
def test_control_flow(mode):
    def make_step(wrap):
        inner = wrap(layer)

        @wrap
        def looped(x):
            for _ in tf.range(2):
                x = inner(x, WEIGHTS[1])
            return x

        def model(x):
            x = inner(x, WEIGHTS[0])
            index = tf.argmax(x[0, :2], output_type=tf.int32)
            if mode == "cond":
                x = tf.cond(tf.reduce_sum(x) > 0, lambda: inner(x, WEIGHTS[1]), lambda: mish(x))
            elif mode == "while":
                x = tf.while_loop(
                    lambda i, _: i < 3, lambda i, x: (i + 1, inner(x, WEIGHTS[1])), [0, x]
                )[1]
            elif mode == "inside":
                x = looped(x)
            else:
                x = tf.switch_case(
                    index, [lambda: mish(x), lambda: inner(inner(x, WEIGHTS[1]), WEIGHTS[2])]
                )
            return inner(x, WEIGHTS[3])

        return gradients_of(model)

    expected = tf.function(make_step(tf.function))(X)
    function = rewritten(make_step(tf.function))
    assert_same(function(X), expected)
    assert not calls(function)
    assert function.reports[-1].changed


def noinline(function):
    return tf.function(function, experimental_attributes={"_noinline": True})


def compiled(function):
    return tf.function(function, jit_compile=True)


def of_its_own(function):
    return nfad.function(function, options=OPTIONS)


@pytest.mark.parametrize("wrap", [noinline, compiled, of_its_own])
def test_what_stays_a_call(wrap):
    expected = tf.function(gradients_of(layers_of(unwrapped)))(X)
    inner = wrap(layer)
    function = rewritten(gradients_of(layers_of(unwrapped, inner)))
    assert_same(function(X), expected)
    assert len(calls(function)) >= 2 * LAYERS
    # Neither is a function inlined that calls one of these.
    function = rewritten(gradients_of(tf.function(layers_of(unwrapped, inner))))
    assert_same(function(X), expected)
    assert len(calls(function)) == 2


def test_a_nested_function_is_reported_as_a_part():
    with nfad.rewriting(OPTIONS) as session:
        tf.function(gradients_of(tf.function(layers_of(unwrapped))))(X)
    model, step = session.reports
    assert not model.changed and model.reason.startswith("a function called under a tape:")
    assert step.changed


def test_a_nested_function_can_be_used_by_itself_afterwards():
    model = layers_of(tf.function)
    expected = model(X), gradients_of(layers_of(unwrapped))(X)
    fresh = layers_of(tf.function)
    rewritten(gradients_of(fresh))
    assert_same((fresh(X), gradients_of(fresh)(X)), expected)


def test_devices_are_kept():
    def make_step(wrap):
        inner = wrap(layer)

        def model(x):
            with tf.device("/CPU:0"):
                return inner(x, WEIGHTS[0])

        return gradients_of(model)

    function = rewritten(make_step(tf.function))
    assert not calls(function)
    products = [
        op for op in function.get_concrete_function(X).graph.get_operations()
        if op.type == "MatMul" and op.name.startswith("layer")
    ]  # fmt: skip
    assert products and all(op.device.endswith("CPU:0") for op in products)


@pytest.mark.parametrize("strategy", ["auto", "recompute", "forward_ad"])
def test_forward_functions_under_an_eager_tape(strategy):
    """The outer function holds no gradient; its calls are inlined all the same."""
    expected = gradients_of(layers_of(unwrapped))(X)
    function = nfad.function(
        layers_of(unwrapped, tf.function(layer)), options=OPTIONS.replace(strategy=strategy)
    )
    assert_same(gradients_of(function)(X), expected)
    assert function.reports[-1].changed and not calls(function)


def updated(x, weights):
    with tf.GradientTape() as tape:
        tape.watch(weights)
        h = x
        for w in weights:
            h = tf.nn.gelu(mish(h @ w))
        loss = tf.reduce_mean(tf.square(h))
    slopes = tape.gradient(loss, weights)
    return loss, [w - 0.1 * s for w, s in zip(weights, slopes, strict=True)]


def through_updates(update):
    def step(x):
        with tf.GradientTape() as tape:
            weights = [tf.identity(w) for w in WEIGHTS]
            for _ in range(3):
                loss, weights = update(x, weights)
        return loss, tape.gradient(loss, WEIGHTS)

    return step


def test_gradients_of_training_steps_in_a_step():
    expected = tf.function(through_updates(updated))(X)
    function = rewritten(through_updates(tf.function(updated)))
    assert_same(function(X), expected)
    assert not calls(function) and function.reports[-1].changed


def test_gradients_of_training_steps_under_an_eager_tape():
    plain = tf.function(updated)
    expected = through_updates(plain)(X)
    function = nfad.function(updated, options=OPTIONS)
    assert_same(through_updates(function)(X), expected)
    report = function.reports[-1]
    assert report.changed and report.kept_bytes_after < report.kept_bytes_before
