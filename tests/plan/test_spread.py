"""A normalisation's scale is kept as the two small tensors that it is spread from."""

from __future__ import annotations

import pytest
import tensorflow as tf
from traced import candidates_of, numbers

import nested_fad_tf as nfad
from nested_fad_tf.plan import forward_ad
from nested_fad_tf.plan.spread import find_spread

ROWS, WIDTH = 64, 128
OPTIONS = nfad.Options(strategy="forward_ad", min_bytes=1024, on_error="raise")


def normalise(x, gamma):
    mean, variance = tf.nn.moments(x, -1, keepdims=True)
    scale = tf.math.rsqrt(variance + 1e-3) * gamma
    return x * scale - mean * scale


def step_of(function):
    def step(x, w, gamma):
        with tf.GradientTape() as tape:
            tape.watch([w, gamma])
            y = x
            for _ in range(3):
                y = tf.nn.gelu(function(y @ w, gamma))
            loss = tf.reduce_sum(y @ w)
        return loss, tape.gradient(loss, [w, gamma])

    return step


ARGUMENTS = (numbers(ROWS, WIDTH), numbers(WIDTH, WIDTH), numbers(WIDTH))
SPECS = [tf.TensorSpec(a.shape) for a in ARGUMENTS]


def kept(keeps) -> list[str]:
    return [k.value.node.op_type for k in keeps]


@pytest.mark.parametrize("fuse", ["ops", "xla"])
def test_a_normalisations_scale_is_not_kept(fuse):
    step = step_of(normalise)
    candidates = candidates_of(step, *SPECS, fused=fuse != "ops")
    spread = [candidates.view.values[i] for i in find_spread(candidates)]
    assert [v.node.op_type for v in spread] == ["Mul"] * 3
    plan = forward_ad.plan(candidates, OPTIONS.replace(fuse=fuse))
    assert not {v.id for v in spread} & {k.value.id for k in plan.kept_after}
    assert {v.id for v in spread} <= {k.value.id for k in plan.kept_before}
    nfad.testing.assert_same_step(step, *ARGUMENTS, options=OPTIONS.replace(fuse=fuse))


def test_what_is_made_of_a_large_tensor_is_not_spread():
    candidates = candidates_of(step_of(lambda h, gamma: h * gamma), *SPECS)
    assert not find_spread(candidates)


def test_random_numbers_are_not_drawn_twice():
    def noisy(h, gamma):
        return h * tf.random.stateless_uniform(h.shape, [1, 2]) * gamma

    assert not find_spread(candidates_of(step_of(noisy), *SPECS))
