"""Tiny models of transformers, from configurations of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import transformers
from torch import nn

from ortho_lightning.experiments.subjects.subject import Subject

_WORDS = 24
_LENGTH = 12
_IMAGE = 32


def _tokens() -> dict[str, Any]:
    return {"input_ids": torch.randint(3, _WORDS, (2, _LENGTH))}


def _two_sides() -> dict[str, Any]:
    return _tokens() | {"decoder_input_ids": torch.randint(3, _WORDS, (2, _LENGTH))}


def _pixels() -> dict[str, Any]:
    return {"pixel_values": torch.randn(2, 3, _IMAGE, _IMAGE)}


def _text_and_pixels() -> dict[str, Any]:
    return _tokens() | _pixels()


def _spectrogram() -> dict[str, Any]:
    return {
        "input_features": torch.randn(2, 16, 2 * _LENGTH),
        "decoder_input_ids": torch.randint(3, _WORDS, (2, _LENGTH)),
    }


def _waveform() -> dict[str, Any]:
    return {"input_values": torch.randn(2, 2000)}


@dataclass(frozen=True)
class _Tiny:
    kind: str
    """Of the model; its configuration is that of its family."""
    inputs: Callable[[], dict[str, Any]]
    config: dict[str, Any] = field(default_factory=dict)


_TEXT = {"vocab_size": _WORDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_WIDE = {**_TEXT, "intermediate_size": 48}
_SEEN = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": _IMAGE,
    "patch_size": 8,
}

_MODELS = {
    "bert": _Tiny("BertForMaskedLM", _tokens, _WIDE),
    "clip": _Tiny("CLIPModel", _text_and_pixels, {"text_config": _WIDE, "vision_config": _SEEN}),
    "gpt2": _Tiny("GPT2LMHeadModel", _tokens, {"vocab_size": _WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4}),
    "llama": _Tiny("LlamaForCausalLM", _tokens, {**_WIDE, "num_key_value_heads": 2}),
    "mamba": _Tiny(
        "MambaForCausalLM", _tokens, {"vocab_size": _WORDS, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
    ),
    "mixtral": _Tiny("MixtralForCausalLM", _tokens, {**_WIDE, "num_key_value_heads": 2, "num_local_experts": 4}),
    "t5": _Tiny(
        "T5ForConditionalGeneration",
        _two_sides,
        {"vocab_size": _WORDS, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
    ),
    "vit": _Tiny("ViTForImageClassification", _pixels, _SEEN),
    "wav2vec2": _Tiny(
        "Wav2Vec2Model",
        _waveform,
        {
            **_WIDE,
            "conv_dim": [16, 16, 16],
            "conv_stride": [5, 4, 2],
            "conv_kernel": [10, 8, 4],
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 4,
            "apply_spec_augment": False,  # it draws from numpy's state
        },
    ),
    "whisper": _Tiny(
        "WhisperForConditionalGeneration",
        _spectrogram,
        {
            "vocab_size": _WORDS,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "num_mel_bins": 16,
            "max_source_positions": _LENGTH,
            "max_target_positions": _LENGTH,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
        },
    ),
}


def names() -> list[str]:
    """Return the names of the models."""
    return [f"transformers/{name}" for name in _MODELS]


def subject(name: str) -> Subject:
    """Return a tiny model with a random input."""
    tiny = _MODELS[name.rpartition("/")[2]]
    size = _IMAGE if tiny.inputs is _pixels else 0
    return Subject(name, size, partial(_make, tiny), tiny.inputs)


def _make(tiny: _Tiny) -> nn.Module:
    kind = getattr(transformers, tiny.kind)
    # fewer parts that come and go by chance: a layer that is dropped in a step does not run in it
    return kind(kind.config_class(**tiny.config, **({"layerdrop": 0.0} if "conv_dim" in tiny.config else {})))
