"""Recurrent Keras models for tests; as a script, what a step of each needs, plain and rewritten."""

from __future__ import annotations

import json
import sys

import keras
import numpy as np
import tensorflow as tf

import nested_fad_tf as nfad

BATCH, STEPS, WIDTH, WORDS, SIDE = 64, 8, 64, 20, 8
OPTIONS = nfad.Options(on_error="raise", fuse="ops", min_bytes=1024)
_RNG = np.random.default_rng(0)
SEQUENCES = _RNG.standard_normal([BATCH, STEPS, WIDTH]).astype(np.float32)
IMAGES = _RNG.standard_normal([BATCH, STEPS, SIDE, SIDE, 3]).astype(np.float32)
SENTENCES = _RNG.integers(1, WORDS, [BATCH, STEPS], dtype=np.int32)
for _row, _length in enumerate(_RNG.integers(0, STEPS + 1, BATCH)):
    SENTENCES[_row, _length:] = 0
TARGETS = _RNG.standard_normal([BATCH, 1]).astype(np.float32)

layers = keras.layers


class NormedCell(keras.layers.Layer):
    """A cell as users write them: a normalized state, an activation with a long chain."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = self.output_size = units
        self.inner, self.norm = layers.Dense(units), layers.LayerNormalization()

    def build(self, shape):
        self.inner.build([shape[0], shape[-1] + self.units])
        self.norm.build([shape[0], self.units])

    def call(self, x, states):
        h = self.norm(self.inner(keras.ops.concatenate([x, states[0]], -1)))
        h = h * keras.ops.tanh(keras.ops.softplus(h))
        return h, [h]


def _head(x):
    x = layers.Dense(WIDTH, activation="mish")(x)
    return layers.Dense(1)(layers.Dense(WIDTH, activation="mish")(x))


def _on_sequences(*stack, batch=None):
    def make():
        x = inputs = keras.Input([STEPS, WIDTH], batch_size=batch)
        for layer in stack:
            x = layer()(x)
        if isinstance(x, (list, tuple)):
            x = layers.Subtract()(list(x))
        if len(x.shape) > 2:
            x = layers.GlobalAveragePooling1D()(x)
        return keras.Model(inputs, _head(x))

    return make, SEQUENCES


def _on_sentences(*stack):
    def make():
        inputs = keras.Input([STEPS], dtype="int32")
        x = layers.Embedding(WORDS, WIDTH, mask_zero=True)(inputs)
        for layer in stack:
            x = layer()(x)
        return keras.Model(inputs, _head(x))

    return make, SENTENCES


def _on_images(layer):
    def make():
        inputs = keras.Input([STEPS, SIDE, SIDE, 3])
        return keras.Model(inputs, _head(layers.GlobalAveragePooling2D()(layer()(inputs))))

    return make, IMAGES


def _encoder_decoder():
    inputs = keras.Input([STEPS, WIDTH])
    *_, h, c = layers.LSTM(WIDTH, return_state=True)(inputs)
    x = layers.LSTM(WIDTH, return_sequences=True)(inputs, initial_state=[h, c])
    return keras.Model(inputs, _head(layers.GlobalAveragePooling1D()(x)))


def _lstm(**kwargs):
    return lambda: layers.LSTM(WIDTH, **kwargs)


def _gru(**kwargs):
    return lambda: layers.GRU(WIDTH, **kwargs)


def _simple(**kwargs):
    return lambda: layers.SimpleRNN(WIDTH, activation="gelu", **kwargs)


def _both(layer, mode, **kwargs):
    return lambda: layers.Bidirectional(layer(**kwargs)(), merge_mode=mode)


def _images(**kwargs):
    return lambda: layers.ConvLSTM2D(8, 3, padding="same", activation="gelu", **kwargs)


# By name: what makes the model, and its inputs.
MODELS = {
    "lstm": _on_sequences(_lstm()),
    "lstm-unroll": _on_sequences(_lstm(unroll=True)),
    "lstm-stack": _on_sequences(_lstm(return_sequences=True), _lstm(go_backwards=True)),
    "lstm-dropout": _on_sequences(_lstm(dropout=0.2, recurrent_dropout=0.2)),
    "lstm-dropout-unroll": _on_sequences(_lstm(dropout=0.2, recurrent_dropout=0.2, unroll=True)),
    "lstm-mask": _on_sentences(_lstm(return_sequences=True), _lstm()),
    "lstm-mask-unroll": _on_sentences(_lstm(unroll=True)),
    "lstm-stateful": _on_sequences(_lstm(stateful=True), batch=BATCH),
    "lstm-states": (_encoder_decoder, SEQUENCES),
    "gru": _on_sequences(_gru(return_sequences=True)),
    "gru-unroll": _on_sequences(_gru(return_sequences=True, unroll=True)),
    "gru-reset-before": _on_sequences(_gru(reset_after=False)),
    "gru-mask-dropout": _on_sentences(_gru(dropout=0.2, recurrent_dropout=0.2)),
    "gru-stateful-unroll": _on_sequences(_gru(stateful=True, unroll=True), batch=BATCH),
    "simple": _on_sequences(_simple(return_sequences=True)),
    "simple-unroll": _on_sequences(_simple(unroll=True)),
    "simple-mask": _on_sentences(_simple(return_sequences=True, zero_output_for_mask=True),
                                 _simple()),
    "convlstm": _on_images(_images()),
    "convlstm-unroll": _on_images(_images(unroll=True, recurrent_dropout=0.2)),
    "both-concat": _on_sequences(_both(_simple, "concat", return_sequences=True)),
    "both-sum": _on_sequences(_both(_gru, "sum")),
    "both-mul-unroll": _on_sequences(_both(_simple, "mul", unroll=True)),
    "both-ave-mask": _on_sentences(_both(_lstm, "ave")),
    "both-apart": _on_sequences(_both(_simple, None)),
    "cells": _on_sequences(
        lambda: layers.RNN([layers.LSTMCell(WIDTH), layers.GRUCell(WIDTH), NormedCell(WIDTH)])
    ),
    "cell": _on_sequences(lambda: layers.RNN(NormedCell(WIDTH), return_sequences=True)),
}  # fmt: skip


def step_of(name, wrap):
    """A wrapped training step of a new model, without the update, and its arguments."""
    make, x = MODELS[name]
    keras.utils.set_random_seed(1)
    model = make()

    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
        gradients = tape.gradient(loss, model.trainable_variables)
        return loss, [tf.convert_to_tensor(g) for g in gradients]  # an embedding's is sparse

    return wrap(step), (tf.constant(x), tf.constant(TARGETS))


def rewritten(step):
    return nfad.function(step, options=OPTIONS)


def _peak(name, wrap):
    step, arguments = step_of(name, wrap)
    # The smallest of the calls: on a busy machine some take more.
    return nfad.measure(step, *arguments, runs=1).peak_range[0]


if __name__ == "__main__":
    tf.config.threading.set_inter_op_parallelism_threads(1)
    for chosen in sys.argv[1:]:
        print(json.dumps([chosen, _peak(chosen, tf.function), _peak(chosen, rewritten)]))
