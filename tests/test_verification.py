from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf
from traced import mish, numbers

import nested_fad_tf as nfad
from nested_fad_tf import pipeline, testing, verification
from nested_fad_tf.plan.peak import simulate
from nested_fad_tf.plan.rewrite import Rewrite

SIDE = 32
OPTIONS = nfad.Options(fuse="ops", min_bytes=256, on_error="raise", verify=True)


class Net:
    def __init__(self):
        self.weight = tf.Variable(numbers(SIDE, SIDE, scale=SIDE**-0.5), name="weight")
        self.steps = tf.Variable(0, name="steps")

    def step(self, x):
        with tf.GradientTape() as tape:
            y = x
            for _ in range(3):
                y = mish(y @ self.weight)
            loss = tf.reduce_sum(y)
        self.weight.assign_sub(0.01 * tape.gradient(loss, self.weight))
        self.steps.assign_add(1)
        return {"loss": loss}


@pytest.fixture
def wrong_rewrite(monkeypatch):
    """Plans that hand the backward pass a tensor of the right shape and the wrong layer."""
    make_plan = pipeline.make_plan

    def spoilt(view, roles, options):
        plan = make_plan(view, roles, options)
        assert plan.rewrite
        redirects = dict(plan.rewrite.redirects)
        tanh = [n for n in view.nodes if n.op_type == "Tanh"]
        exchanged = 0
        for n in view.nodes:
            if n.op_type == "TanhGrad":
                redirects[n.id, 0] = tanh[0].outputs[0]
                exchanged += 1
        assert exchanged == 3
        rewrite = Rewrite(plan.rewrite.nodes, redirects)
        return dataclasses.replace(plan, rewrite=rewrite, after=simulate(view, rewrite))

    monkeypatch.setattr(pipeline, "make_plan", spoilt)


def test_a_good_rewrite_passes_and_takes_one_step():
    net, plain = Net(), Net()
    rewritten = nfad.function(net.step, options=OPTIONS)
    x = numbers(SIDE, SIDE)
    for _ in range(3):
        loss = rewritten(x)["loss"]
        expected = tf.function(plain.step)(x)["loss"]
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert rewritten.reports[-1].changed
    assert net.steps.numpy() == 3
    np.testing.assert_allclose(net.weight, plain.weight, rtol=0, atol=1e-6)


def test_both_versions_run_at_the_first_call_only(monkeypatch):
    calls = []
    compare = verification.compare
    monkeypatch.setattr(verification, "compare", lambda *args: calls.append(1) or compare(*args))
    rewritten = nfad.function(Net().step, options=OPTIONS)
    for rows in (SIDE, SIDE, 64, 64, SIDE):
        rewritten(numbers(rows, SIDE))
    assert len(calls) == 2  # one for each trace
    nfad.function(Net().step, options=OPTIONS.replace(verify=False))(numbers(SIDE, SIDE))
    assert len(calls) == 2


def test_a_wrong_rewrite_is_found_and_the_tensor_named(wrong_rewrite):
    rewritten = nfad.function(Net().step, options=OPTIONS)
    with pytest.raises(nfad.VerificationError, match="variable weight"):
        rewritten(numbers(SIDE, SIDE))


def test_without_verifying_it_is_not(wrong_rewrite):
    nfad.function(Net().step, options=OPTIONS.replace(verify=False))(numbers(SIDE, SIDE))


def test_assert_same_step_reports_a_good_rewrite():
    net = Net()
    before = net.weight.numpy()
    report = testing.assert_same_step(net.step, numbers(SIDE, SIDE), options=OPTIONS)
    assert report.changed
    assert not np.array_equal(net.weight.numpy(), before)
    assert net.steps.numpy() == 1


def test_assert_same_step_finds_a_wrong_one(wrong_rewrite):
    with pytest.raises(nfad.VerificationError, match="variable weight"):
        testing.assert_same_step(
            tf.function(Net().step), numbers(SIDE, SIDE), options=OPTIONS.replace(verify=False)
        )


def test_assert_same_step_raises_what_the_pass_raises(monkeypatch):
    def fail(*args):
        raise RuntimeError("it broke")

    monkeypatch.setattr(pipeline, "make_plan", fail)
    with pytest.raises(nfad.RewriteError, match="it broke"):
        testing.assert_same_step(
            Net().step, numbers(SIDE, SIDE), options=nfad.Options(on_error="fallback")
        )


def compare(expected, actual, **kwargs):
    return verification.compare(lambda: expected, lambda: actual, [], **kwargs)


def test_equal_results_are_given_back():
    actual = {"a": tf.constant([1.0, np.nan, np.inf]), "b": tf.constant([1, 2]), "c": "text"}
    expected = {"a": tf.constant([1.0, np.nan, np.inf]), "b": tf.constant([1, 2]), "c": "text"}
    assert compare(expected, actual) is actual


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ([1.0, 2.0], [1.0, 2.01]),
        ([1.0, 2.0], [1.0, np.nan]),
        ([1.0, np.nan], [1.0, 2.0]),
        ([1.0, np.inf], [1.0, -np.inf]),
        ([1.0, np.inf], [1.0, np.nan]),
        ([0.0, 0.0], [0.0, 0.1]),
        ([1.0, 2.0], [[1.0, 2.0]]),
        ([1, 2], [1, 3]),
        ([True, False], [True, True]),
        (["a"], ["b"]),
    ],
)
def test_differences_are_found_and_named(expected, actual):
    same = tf.constant(1.0)
    with pytest.raises(nfad.VerificationError, match="output 1 "):
        compare([same, tf.constant(expected)], [same, tf.constant(actual)])


def test_the_worst_tensor_is_named():
    ones = tf.ones([4])
    with pytest.raises(nfad.VerificationError, match=r"output 1 by 1 of"):
        compare([ones, ones, ones], [1.1 * ones, 2.0 * ones, 1.2 * ones])


def test_a_missing_output_is_named():
    with pytest.raises(nfad.VerificationError, match="output 1"):
        compare([tf.ones([]), tf.ones([])], [tf.ones([])])


@pytest.mark.parametrize(
    ("dtype", "factor"), [(tf.float64, 1e-8), (tf.float32, 2e-3), (tf.float16, 0.02)]
)
def test_tolerances_go_by_dtype(dtype, factor):
    one = tf.ones([4], dtype)
    with pytest.raises(nfad.VerificationError):
        compare(one, one * (1 + factor))
    compare(one, one * (1 + factor), rtol=2 * factor)
    compare(one, one * (1 + factor), atol=2 * factor)
    compare(one, one)


def test_small_entries_are_measured_by_the_largest():
    compare(tf.constant([1.0, 1e-6]), tf.constant([1.0, 2e-6]))
    with pytest.raises(nfad.VerificationError):
        compare(tf.constant([1e-6, 1e-6]), tf.constant([1e-6, 2e-6]))


def test_both_versions_start_from_the_same_values_and_the_rewritten_one_counts():
    variable = tf.Variable(10.0, name="counted")
    seen = []

    def version(amount):
        def run():
            seen.append(float(variable.numpy()))
            variable.assign_add(amount)

        return run

    verification.compare(version(1.0), version(1.0), [variable])
    assert seen == [10.0, 10.0]
    assert variable.numpy() == 11.0
    with pytest.raises(nfad.VerificationError, match="variable counted"):
        verification.compare(version(1.0), version(2.0), [variable])


def test_any_order_of_calls_agrees():
    for strategy, fuse in itertools.product(["auto", "recompute", "forward_ad"], ["ops"]):
        options = OPTIONS.replace(strategy=strategy, fuse=fuse, verify=False)
        testing.assert_same_step(Net().step, numbers(SIDE, SIDE), options=options)
