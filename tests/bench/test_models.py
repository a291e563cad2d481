"""The benchmark models: the registry, and one small model that really steps."""

import re

import numpy as np
import pytest
import tensorflow as tf

from nested_fad_tf.bench import catalog, models


def test_registry_names():
    assert {"mish_mlp", "mixer", "efficientnetv2b0", "bert", "llama", "vit"} <= set(models.names())
    assert len(models.names()) == len(set(models.names()))
    assert models.names() == list(catalog.MODELS)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="linear_mlp"):
        models.build("no_such_model")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bert:width=3", "bert has no 'width'; it has: batch, depth, length"),
        ("bert:batch=0", "batch must be a positive number, not 0"),
        ("bert:batch=many", "not 'many'"),
        ("bert:batch", "'batch' is not of the form name=value"),
    ],
)
def test_sizes_that_make_no_sense(name, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        models.build(name)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mish_convnet:batch=2:depth=1:size=16", (2, 16, 16, 3)),
        ("depthwise_convnet:batch=2:depth=1:size=16", (2, 16, 16, 3)),
        ("long_transformer:batch=3:depth=1:length=32", (3, 32, 64)),
        ("mixer:batch=2:depth=1:size=32", (2, 32, 32, 3)),
        ("mobilenetv3small:batch=2:size=32", (2, 32, 32, 3)),
    ],
)
def test_sizes_behind_the_name(name, shape):
    problem = models.build(name)
    assert problem.inputs[0].shape == shape
    logits = problem.model(problem.inputs[0], training=True)
    assert logits.shape[0] == problem.inputs[1].shape[0] == shape[0]


def test_depth_is_the_number_of_layers():
    few, many = (models.build(f"relu_mlp:batch=2:depth={depth}").model for depth in (3, 5))
    assert len(many.weights) - len(few.weights) == 4


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
