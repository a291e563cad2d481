"""When the backward pass begins, in measured calls whose order of ops is known."""

from __future__ import annotations

from itertools import pairwise

import pytest
import tensorflow as tf
from traced import numbers

import nested_fad_tf as nfad
from nested_fad_tf.report import passes

ROWS, SIDE = 512, 256
OPTIONS = nfad.Options(min_bytes=1024, on_error="raise")


@pytest.fixture(scope="module")
def weights():
    return tf.Variable(numbers(SIDE, SIDE, scale=SIDE**-0.5))


@pytest.fixture
def x():
    return numbers(ROWS, SIDE)


def gelu_step(w):
    """The gradient of an exact GELU holds factors that TensorFlow computes in the forward pass."""

    def step(x):
        with tf.GradientTape() as tape:
            y = x
            for i in range(4):
                with tf.name_scope(f"layer_{i}"):
                    y = tf.nn.gelu(y @ w)
            loss = tf.reduce_sum(y * y)
        return tape.gradient(loss, w)

    return step


def measured(fn, *args):
    found = nfad.measure(fn, *args, runs=1)
    if not found.timeline:
        pytest.skip("the allocator tells nothing here")
    return found


def most_before(found):
    """The most that is live before the backward pass begins, in tensors."""
    sizes = [size for time, size in found.timeline if time < found.backward_from]
    return max(sizes) / (4 * ROWS * SIDE)


@pytest.mark.parametrize("strategy", ["auto", "forward_ad"])
@pytest.mark.parametrize("fuse", ["ops", "xla"])
def test_a_step_plain_and_rewritten(weights, x, strategy, fuse):
    step = gelu_step(weights)
    options = OPTIONS.replace(strategy=strategy, fuse=fuse)
    rewritten = nfad.function(step, options=options)
    before, after = measured(tf.function(step), x), measured(rewritten, x)
    assert rewritten.reports[-1].changed
    for found in (before, after):
        assert 0 < found.backward_from < found.timeline[-1][0]
        # By then everything is there that is kept for it, and no weight's gradient.
        assert most_before(found) >= (8 if found is before else 4)
    assert most_before(after) < most_before(before)


def test_a_backward_pass_that_begins_with_compiled_code(weights, x):
    """The group that takes the derivative of the last layer is its first op."""

    def step(x):
        with tf.GradientTape() as tape:
            y = tf.nn.gelu(x @ weights)
            loss = tf.reduce_sum(tf.nn.gelu(y @ weights))
        return tape.gradient(loss, weights)

    found = measured(nfad.function(step, options=OPTIONS.replace(fuse="xla")), x)
    before = [0, *(size for time, size in found.timeline if time < found.backward_from)]
    # Two products and a GELU: what the group gives is not there yet.
    assert sum(late - early == 4 * ROWS * SIDE for early, late in pairwise(before)) == 3


def test_a_function_that_the_step_calls(weights, x):
    inner = tf.function(gelu_step(weights))
    found = measured(tf.function(lambda x: 2.0 * inner(tf.tanh(x))), x)
    assert most_before(found) >= 8


def test_an_eager_tape(weights, x):
    call = tf.function(lambda x: tf.nn.gelu(tf.nn.gelu(x @ weights) @ weights))

    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(call(x))
        return tape.gradient(loss, weights)

    assert most_before(measured(step, x)) >= 4


@pytest.mark.parametrize("kind", ["forward", "eager", "compiled"])
def test_what_can_not_be_told_is_not(weights, x, kind):
    fn = {
        "forward": tf.function(lambda x: tf.nn.gelu(x @ weights)),
        "eager": gelu_step(weights),
        "compiled": tf.function(gelu_step(weights), jit_compile=True),
    }[kind]
    assert measured(fn, x).backward_from is None


def test_a_forward_op_is_not_taken_for_one_of_a_function_that_is_called(x):
    """Both have an op of the same name; when it runs under its own, it could be either."""

    @tf.function
    def inner(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.tanh(x)
            loss = tf.reduce_sum(tf.exp(y))
        return tf.multiply(tape.gradient(loss, x), y, name="same")

    @tf.function
    def outer(x):
        return inner(tf.multiply(x, x, name="same"))

    name = outer.get_concrete_function(x).function_def.signature.name
    called = passes.Passes().backward_from
    call = (0, f"EagerLocalExecute: {name}")
    assert called([call, (1, "same:Mul")]) is None
    inner_name = inner.get_concrete_function(x).function_def.signature.name
    assert called([(0, f"EagerLocalExecute: {inner_name}"), (1, "same:Mul")]) == 1


def test_a_function_that_is_gone_tells_nothing():
    events = [(0, "EagerLocalExecute: __inference_gone_1"), (1, "gradient_tape/MatMul:MatMul")]
    assert passes.Passes().backward_from(events) is None


@pytest.mark.parametrize(
    ("event", "told"),
    [
        ("EagerLocalExecute: __inference_step_12", True),
        ("gradient_tape/net_1/dense/MatMul:_MklMatMul", True),
        ("ExecutorState::Process", False),
        ("ExecutorState::ProcessAsync::Start", True),
        ("end: broadcast_add_fusion", False),
        ("MemoryAllocation", False),
    ],
)
def test_events_that_tell(event, told):
    assert passes.tells(event) == told


def test_ops_that_run_asynchronously_are_named_beside_the_event():
    stats = {"name": "net/call", "kernel_type": "PartitionedCall", "step_id": 7}
    assert passes.told("ExecutorState::ProcessAsync::Start", stats) == "net/call:PartitionedCall"
    assert passes.told("net/mul:Mul", {}) == "net/mul:Mul"
