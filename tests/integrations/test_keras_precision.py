"""Mixed precision: the same losses, and loss scaling that skips the same steps."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras_training import OPTIONS, X, assert_same, dense, train

import nested_fad_tf as nfad


@pytest.fixture
def policy(request):
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy(request.param)
    yield request.param
    keras.mixed_precision.set_dtype_policy(before)


def model():
    layers = [dense(activation=name) for name in ("mish", "gelu", "silu", "mish")]
    return keras.Sequential([keras.Input([X.shape[1]]), *layers, keras.layers.Dropout(0.2),
                             dense(1, None, dtype="float32")])  # fmt: skip


def pair(options=OPTIONS, compiled=None, **fit):
    return [train(model, which, compiled, options=options, **fit) for which in (False, True)]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"], indirect=True)
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("strategy", ["auto", pytest.param("forward_ad", marks=pytest.mark.slow)])
def test_mixed_precision(policy, jit_compile, strategy):
    def compiled():
        # Adam's first step is as long for a gradient that is zero but for rounding.
        return {"jit_compile": jit_compile, "optimizer": keras.optimizers.SGD(0.02)}

    options = OPTIONS.replace(strategy=strategy)
    (plain, expected), (rewritten, actual) = pair(options, compiled)
    if strategy == "auto":
        assert any(r.changed for r in nfad.keras.reports(rewritten))
    # As far as plain TensorFlow is from itself in these dtypes when ops are fused differently.
    assert_same(actual, expected, rtol=1e-2)
    assert_same(rewritten.get_weights(), plain.get_weights(), rtol=5e-2)
    kept = {k.dtype for r in nfad.keras.reports(rewritten) for k in r.kept}
    assert policy.removeprefix("mixed_") in kept


@pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)
def test_overflowing_steps_are_skipped_as_without_us(policy):
    """The scale starts so high that the first steps overflow, and falls till they don't."""

    def compiled():
        inner = keras.optimizers.SGD(1e-3)
        return {
            "optimizer": keras.optimizers.LossScaleOptimizer(
                inner, initial_scale=2.0**26, dynamic_growth_steps=3
            )
        }

    (plain, expected), (rewritten, actual) = pair(compiled=compiled, epochs=4)
    assert any(r.changed for r in nfad.keras.reports(rewritten))
    scales = [float(m.optimizer.dynamic_scale) for m in (plain, rewritten)]
    assert scales[0] == scales[1] < 2.0**26
    steps = [int(m.optimizer.inner_optimizer.iterations) for m in (plain, rewritten)]
    assert steps[0] == steps[1] < 4 * 4
    assert_same(actual, expected, rtol=1e-2)
    assert np.isfinite(actual["loss"]).all()
