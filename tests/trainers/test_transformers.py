"""Models of Hugging Face's transformers, small and with random weights, trained in three ways."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf
from trainers import INSTALL, OPTIONS, assert_fired, assert_same, dense, numbers, whole

import nested_fad_tf as nfad

tf_keras = pytest.importorskip("tf_keras", reason=f"tf_keras is {INSTALL}")
transformers = pytest.importorskip("transformers", reason=f"transformers is {INSTALL}")
if not hasattr(transformers, "TFPreTrainedModel"):
    pytest.skip("transformers 5 has no TensorFlow models", allow_module_level=True)

BATCH, WORDS, LABELS, VOCABULARY = 32, 24, 3, 100
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64,
         "intermediate_size": 128, "num_labels": LABELS}  # fmt: skip


def bert():
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, max_position_embeddings=WORDS, hidden_act="gelu", **SIZES
    )
    mask = (np.arange(WORDS) < whole(WORDS, BATCH, 1) + 1).astype(np.int32)
    inputs = {"input_ids": whole(VOCABULARY, BATCH, WORDS), "attention_mask": mask}
    return transformers.TFBertForSequenceClassification(config), inputs, whole(LABELS, BATCH)


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=WORDS, n_embd=64, n_layer=2, n_head=4
    )
    words = whole(VOCABULARY, BATCH, WORDS)
    return transformers.TFGPT2LMHeadModel(config), {"input_ids": words}, words


def vit():
    config = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1,
        **SIZES,
    )  # fmt: skip
    inputs = {"pixel_values": numbers(BATCH, 3, 32, 32)}
    return transformers.TFViTForImageClassification(config), inputs, whole(LABELS, BATCH)


MODELS = pytest.mark.parametrize("make", [bert, gpt2, vit])


def fit(make, model=None):
    """Two epochs of two batches, with the loss that the model brings along."""
    model, inputs, labels = model or make()
    model.compile(tf_keras.optimizers.SGD(0.1, momentum=0.9))
    history = model.fit(inputs, labels, batch_size=BATCH // 2, epochs=2, verbose=0).history
    return history, model.get_weights()


@functools.cache
def plain_fit(make):
    tf_keras.utils.set_random_seed(1)
    return fit(make)


@MODELS
def test_fit_inside_rewriting(make):
    tf_keras.utils.set_random_seed(1)
    with nfad.rewriting(OPTIONS.replace(nominal_size=BATCH // 2)) as session:
        history, weights = fit(make)
    assert_fired(session.reports)
    assert_same(history, plain_fit(make)[0])
    assert_same(weights, plain_fit(make)[1])


@MODELS
def test_fit_of_an_optimized_model(make):
    tf_keras.utils.set_random_seed(1)
    model, inputs, labels = make()
    assert nfad.keras.optimize(model, OPTIONS) is model
    history, weights = fit(make, (model, inputs, labels))
    assert_fired(nfad.keras.reports(model))
    assert_same(history, plain_fit(make)[0])
    assert_same(weights, plain_fit(make)[1])


@MODELS
def test_a_step_with_a_tape(make):
    runs = []
    for wrap in (tf.function, functools.partial(nfad.function, options=OPTIONS)):
        tf_keras.utils.set_random_seed(1)
        model, inputs, labels = make()
        model(inputs)
        optimizer = tf_keras.optimizers.SGD(0.1)
        optimizer.build(model.trainable_variables)

        def step(inputs, labels, model=model, optimizer=optimizer):
            with tf.GradientTape() as tape:
                outputs = model({**inputs, "labels": labels}, training=True)
                loss = tf.reduce_mean(outputs.loss)
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
            return loss, dense(gradients)

        function = wrap(step)
        inputs, labels = tf.nest.map_structure(tf.constant, (inputs, labels))
        runs.append([*(function(inputs, labels) for _ in range(3)), model.get_weights()])
    assert_fired(function.reports)
    for actual, expected in zip(runs[1], runs[0], strict=True):
        assert_same(actual, expected)
