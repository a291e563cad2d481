"""Nearly every architecture of transformers for TensorFlow: same losses and gradients, less kept.

Small ones with random weights, one step in training mode with whatever dropout they have. Their
graphs differ in what BERT, GPT-2 and ViT don't have: relative positions, gathers by computed
indices, windows of images whose number is computed, branches, convolutions beside attention,
encoders and decoders, gates, losses over pairs. With plain ops for the groups the numbers are
TensorFlow's but for the order of sums; compiled ones round differently, and gradients that are zero
but for rounding are all difference then, so the gradient is compared as one long vector.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from trainers import INSTALL, OPTIONS, assert_fired, dense, numbers, whole

import nested_fad_tf as nfad

tf_keras = pytest.importorskip("tf_keras", reason=f"tf_keras is {INSTALL}")
transformers = pytest.importorskip("transformers", reason=f"transformers is {INSTALL}")
if not hasattr(transformers, "TFPreTrainedModel"):
    pytest.skip("transformers 5 has no TensorFlow models", allow_module_level=True)

BATCH, WORDS, LABELS, VOCABULARY, IMAGE = 4, 24, 5, 99, 32

ENCODER = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2,
           "num_attention_heads": 4, "intermediate_size": 64,
           "max_position_embeddings": 64}  # fmt: skip
BOTH = {"vocab_size": VOCABULARY, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64}  # fmt: skip
T5 = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2,
      "num_heads": 4, "decoder_start_token_id": 0}  # fmt: skip
VISION = {"image_size": IMAGE, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2,
          "num_attention_heads": 4, "intermediate_size": 64}  # fmt: skip
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 2]}
SPEECH = {"num_mel_bins": 20, "max_source_positions": 30, "max_target_positions": 40,
          "decoder_start_token_id": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
          "suppress_tokens": None, "begin_suppress_tokens": None}  # fmt: skip


def words() -> dict[str, Any]:
    ids = 3 + whole(VOCABULARY - 3, BATCH, WORDS)
    return {"input_ids": ids, "labels": ids}


def images(size: int = IMAGE) -> dict[str, Any]:
    return {"pixel_values": numbers(BATCH, 3, size, size), "labels": whole(LABELS, BATCH)}


def segmented() -> dict[str, Any]:
    return {**images(), "labels": whole(LABELS, BATCH, IMAGE, IMAGE)}


def masked_images() -> dict[str, Any]:
    noise = np.random.default_rng(0).random((BATCH, 16)).astype(np.float32)
    return {"pixel_values": images()["pixel_values"], "noise": noise}


def pairs() -> dict[str, Any]:
    ids, pixels = words()["input_ids"], images()["pixel_values"]
    return {"input_ids": ids, "pixel_values": pixels, "return_loss": True}


def speech() -> dict[str, Any]:
    return {"input_features": numbers(BATCH, 20, 60), "labels": words()["labels"]}


def frames() -> dict[str, Any]:
    return {"input_features": numbers(BATCH, 40, 20), "labels": words()["labels"]}


def regions() -> dict[str, Any]:
    places = np.random.default_rng(0).random((BATCH, 5, 4)).astype(np.float32)
    ids = words()["input_ids"]
    return {"input_ids": ids, "visual_feats": numbers(BATCH, 5, 16), "visual_pos": places}


@dataclasses.dataclass(frozen=True)
class Case:
    """The name of a model behind `TF`, that of its configuration, its sizes and what it gets."""

    model: str
    config: str
    sizes: dict[str, Any]
    inputs: Callable[[], dict[str, Any]] = words


RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
CASES = [
    Case("AlbertForMaskedLM", "Albert", {"embedding_size": 16, **ENCODER}),
    Case("BartForConditionalGeneration", "Bart", {"max_position_embeddings": 64, **BOTH}),
    Case("CLIPModel", "CLIP",
         {"text_config": {**ENCODER, "eos_token_id": 98}, "projection_dim": 16,
          "vision_config": VISION}, pairs),
    Case("CTRLLMHeadModel", "CTRL",
         {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "dff": 64}),
    Case("ConvBertForMaskedLM", "ConvBert",
         {"embedding_size": 32, "head_ratio": 2, "conv_kernel_size": 5, **ENCODER}),
    Case("ConvNextV2ForImageClassification", "ConvNextV2", {"num_stages": 2, **STAGES}, images),
    Case("Data2VecVisionForImageClassification", "Data2VecVision", VISION, images),
    Case("DebertaForMaskedLM", "Deberta", {"max_relative_positions": 16, **RELATIVE, **ENCODER}),
    Case("DebertaV2ForMaskedLM", "DebertaV2", {"position_buckets": 8, **RELATIVE, **ENCODER}),
    Case("DeiTForImageClassification", "DeiT", VISION, images),
    Case("EfficientFormerForImageClassification", "EfficientFormer",
         {"image_size": 64, "depths": [1, 1], "hidden_sizes": [8, 16], "dim": 16, "resolution": 8,
          "num_meta3d_blocks": 1, "num_hidden_layers": 1, "num_attention_heads": 2, "key_dim": 8},
         lambda: images(64)),
    Case("ElectraForMaskedLM", "Electra", {"embedding_size": 16, **ENCODER}),
    Case("EsmForMaskedLM", "Esm", {"pad_token_id": 0, "mask_token_id": 1,
                                   "position_embedding_type": "rotary", **ENCODER}),
    Case("FunnelForMaskedLM", "Funnel",
         {"vocab_size": VOCABULARY, "block_sizes": [1, 1], "d_model": 32, "n_head": 4, "d_head": 8,
          "d_inner": 64}),
    Case("GPTJForCausalLM", "GPTJ", {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2,
                                     "n_head": 4, "rotary_dim": 4, "n_positions": 64}),
    Case("LEDForConditionalGeneration", "LED",
         {"attention_window": 8, "max_encoder_position_embeddings": 64,
          "max_decoder_position_embeddings": 64, **BOTH}),
    Case("LayoutLMForMaskedLM", "LayoutLM", {"max_2d_position_embeddings": 64, **ENCODER}),
    Case("LongformerForMaskedLM", "Longformer", {"attention_window": 8, **ENCODER}),
    Case("LxmertModel", "Lxmert",
         {"vocab_size": VOCABULARY, "hidden_size": 32, "num_attention_heads": 4, "l_layers": 1,
          "x_layers": 1, "r_layers": 1, "intermediate_size": 64, "visual_feat_dim": 16}, regions),
    Case("MPNetForMaskedLM", "MPNet", ENCODER),
    Case("MistralForCausalLM", "Mistral", {"num_key_value_heads": 2, **ENCODER}),
    Case("MobileBertForMaskedLM", "MobileBert",
         {"embedding_size": 32, "intra_bottleneck_size": 32, "num_feedforward_networks": 2,
          **ENCODER}),
    Case("MobileViTForImageClassification", "MobileViT",
         {"image_size": 64, "hidden_sizes": [16, 24, 32], "num_attention_heads": 4,
          "neck_hidden_sizes": [8, 16, 16, 24, 32, 32, 32]}, lambda: images(64)),
    Case("OPTForCausalLM", "OPT",
         {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "ffn_dim": 64,
          "num_attention_heads": 4, "max_position_embeddings": 64, "word_embed_proj_dim": 32}),
    Case("PegasusForConditionalGeneration", "Pegasus", {"max_position_embeddings": 64, **BOTH}),
    Case("RegNetForImageClassification", "RegNet",
         {"embedding_size": 8, "groups_width": 8, **STAGES}, images),
    Case("ResNetForImageClassification", "ResNet", {"embedding_size": 8, **STAGES}, images),
    Case("RobertaForMaskedLM", "Roberta", {"pad_token_id": 0, **ENCODER}),
    Case("SegformerForSemanticSegmentation", "Segformer",
         {"hidden_sizes": [16, 32], "depths": [1, 1], "num_encoder_blocks": 2, "sr_ratios": [2, 1],
          "num_attention_heads": [2, 4], "patch_sizes": [7, 3], "strides": [4, 2],
          "mlp_ratios": [2, 2], "decoder_hidden_size": 16}, segmented),
    Case("Speech2TextForConditionalGeneration", "Speech2Text",
         {"input_feat_per_channel": 20, "conv_channels": 16, "max_source_positions": 60,
          "max_target_positions": 40, **BOTH}, frames),
    Case("SwinForImageClassification", "Swin",
         {"image_size": IMAGE, "patch_size": 2, "embed_dim": 16, "depths": [2, 2],
          "num_heads": [2, 4], "window_size": 4}, images),
    Case("T5ForConditionalGeneration", "T5", T5),
    Case("T5ForConditionalGeneration", "T5", {"feed_forward_proj": "gated-gelu", **T5}),
    Case("ViTMAEForPreTraining", "ViTMAE",
         {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, **VISION,
          "decoder_num_attention_heads": 4, "decoder_intermediate_size": 64}, masked_images),
    Case("WhisperForConditionalGeneration", "Whisper", {**SPEECH, **BOTH}, speech),
    Case("XGLMForCausalLM", "XGLM",
         {"vocab_size": VOCABULARY, "d_model": 32, "ffn_dim": 64, "num_layers": 2,
          "attention_heads": 4, "max_position_embeddings": 64}),
    Case("XLNetLMHeadModel", "XLNet",
         {"vocab_size": VOCABULARY, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}),
]  # fmt: skip


def step_of(case):
    """A model, and a step that gives its loss and all gradients."""
    tf_keras.utils.set_random_seed(0)
    model = getattr(transformers, f"TF{case.model}")(
        getattr(transformers, f"{case.config}Config")(num_labels=LABELS, **case.sizes)
    )
    inputs = {
        k: tf.constant(v) if isinstance(v, np.ndarray) else v for k, v in case.inputs().items()
    }

    def step():
        with tf.GradientTape() as tape:
            result = model(**inputs, training=True)
            loss = result.get("loss")
            if loss is None:
                floats = [t for t in tf.nest.flatten(dict(result)) if t.dtype.is_floating]
                loss = tf.add_n([tf.reduce_mean(t * t) for t in floats])
            loss = tf.reduce_mean(loss)
        gradients = tape.gradient(loss, model.trainable_variables)
        return loss, [dense(gradient) for gradient in gradients if gradient is not None]

    step()
    return model, step


def run(model, state, function):
    """One step from a state, with one vector of all gradients.

    Layers are dropped by Python's random numbers, too.
    """
    for variable, value in zip(model.variables, state, strict=True):
        variable.assign(value)
    random.seed(0)
    np.random.seed(0)
    tf.random.set_seed(0)
    loss, gradients = function()
    gradient = np.concatenate([np.ravel(g) for g in gradients])
    return float(loss), gradient, [variable.numpy() for variable in model.variables]


@pytest.mark.slow
@pytest.mark.parametrize("fuse", ["ops", "xla"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.model)
def test_a_step_of_an_architecture(case, fuse):
    model, step = step_of(case)
    state = [variable.numpy() for variable in model.variables]
    rewritten = nfad.function(step, options=OPTIONS.replace(fuse=fuse))
    loss, gradient, after = run(model, state, tf.function(step))
    loss_then, gradient_then, after_then = run(model, state, rewritten)
    assert_fired(rewritten.reports)
    assert np.isfinite(gradient).all()
    assert loss_then == pytest.approx(loss, rel=1e-6)
    assert np.linalg.norm(gradient_then - gradient) <= 1e-5 * np.linalg.norm(gradient)
    for a, b in zip(after_then, after, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
