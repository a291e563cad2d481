"""The benchmark models: the registry, and one small model that really steps."""

import numpy as np
import pytest
import tensorflow as tf

from nested_fad_tf.bench import catalog, models


def test_registry_names():
    assert {"mish_mlp", "mixer", "efficientnetv2b0", "bert", "llama", "vit"} <= set(models.names())
    assert len(models.names()) == len(set(models.names())) == 21
    assert models.names() == list(catalog.MODELS)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="linear_mlp"):
        models.build("no_such_model")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_step_runs_and_agrees_with_gradients(dtype):
    problem = models.build("relu_mlp", dtype=dtype)
    loss, gradients = tf.function(problem.gradients)(*problem.inputs)
    assert loss.dtype == dtype
    assert [g.shape for g in gradients] == [v.shape for v in problem.model.trainable_variables]
    before = [v.numpy() for v in problem.model.trainable_variables]
    assert np.isclose(tf.function(problem.step)(*problem.inputs), loss)
    after = [v.numpy() for v in problem.model.trainable_variables]
    assert all(np.any(a != b) for a, b in zip(before, after, strict=True))


def test_a_seed_fixes_weights_and_data():
    first, again = models.build("relu_mlp", seed=3), models.build("relu_mlp", seed=3)
    other = models.build("relu_mlp", seed=4)
    assert np.array_equal(first.inputs[0], again.inputs[0])
    assert not np.array_equal(first.inputs[0], other.inputs[0])
    assert np.array_equal(first.model.weights[0], again.model.weights[0])
