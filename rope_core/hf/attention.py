"""How a layer attends: which keys it sees, and its softmax scale.

The rules of softmax scales and of two-sided windows are named in the rows of `families.json`. A
rule of a scale takes the reader, the rope parameters and the rotation. A rule of a window takes
the reader and `sliding_window`, and returns how many keys a query sees up to its own, and how many
after it.
"""

import math
from collections.abc import Mapping
from typing import Any

from rope_core.config import AttentionConfig, RopeConfig
from rope_core.errors import ConfigError, brief
from rope_core.hf.config_reader import ConfigReader, is_int
from rope_core.hf.family import SLIDING
from rope_core.hf.head_dim import from_config
from rope_core.hf.layer_types import has_window

MAX_WINDOW = 2**31 - 1

Parameters = Mapping[str, Any]


def attention(
    reader: ConfigReader, parameters: Parameters, rope: RopeConfig | None
) -> AttentionConfig:
    """Return how the reader's layer attends."""
    family = reader.family
    chunk = None
    if reader.layer_type == "chunked_attention":
        chunk = _num_keys(reader, "attention_chunk_size")
    size = family.step("window_size", lambda reader: _num_keys(reader, "sliding_window"))
    window, ahead = size(reader) if _is_windowed(reader) else None, 0
    if (window is not None or reader.layer_type == SLIDING) and family.two_sided_window:
        window, ahead = family.two_sided_window(reader, window)
    softcap, key = None, "attn_logit_softcapping"
    if key in family.defaults and not reader.is_null(key):
        softcap = reader.positive(key)
    _warn_of_temperature(reader, parameters, rope)
    causal = family.causal or bool(family.causal_key and reader.get(family.causal_key))
    if family.encoder_decoder:
        reader.warn("this is the decoder's attention: layers of the encoder are not causal")
    config = AttentionConfig(
        causal=causal,
        window=window if causal or ahead else None,
        window_ahead=ahead,
        chunk=chunk,
        softcap=softcap,
        scale=family.softmax_scale(reader, parameters, rope) if family.softmax_scale else None,
    )
    adjusted: AttentionConfig = family.step("attention", lambda _, config: config)(reader, config)
    return adjusted


def _warn_of_temperature(
    reader: ConfigReader, parameters: Parameters, rope: RopeConfig | None
) -> None:
    """Warn where a model scales queries by their position, which the caller has to do."""
    tuned = rope is None and reader.family.defaults.get("attn_temperature_tuning")
    if tuned and reader.get("attn_temperature_tuning"):
        rule = "1 + attn_scale * ln(1 + floor((position + 1) / floor_scale))"
        reader.warn(f"the caller has to multiply queries of this layer by {rule}")
    if parameters.get("llama_4_scaling_beta"):
        rule = "1 + llama_4_scaling_beta * ln(1 + floor(position / original length))"
        reader.warn(f"the caller has to multiply queries by {rule}, before or after rotation")


def _is_windowed(reader: ConfigReader) -> bool:
    """Return whether a query of this layer sees a window of keys only."""
    if not has_window(reader):
        return False
    family = reader.family
    if reader.layer_type is None:  # all layers are alike, unless they have types
        return not (family.layer_cycle or family.layer_types or reader.from_file("layer_types"))
    return "sliding" in reader.layer_type


def _num_keys(reader: ConfigReader, key: str) -> int:
    size = reader.size(key)
    if size >= MAX_WINDOW:
        raise ConfigError(reader.key_name(key), f"below {MAX_WINDOW}", size)
    return size


def window_on_each_side(_: ConfigReader, window: int | None) -> tuple[int | None, int]:
    """NeoMME, Privacy-Filter: `sliding_window` keys before and after a query."""
    return (None, 0) if window is None else (window + 1, window)


def first_attention_window(reader: ConfigReader, window: int | None) -> tuple[int | None, int]:
    """UltraBERT: the first window of `attention_windows`, or `sliding_window`, on each side."""
    windows = reader.from_file("attention_windows") or ()
    window = next((size for size in windows if size), window)
    if window is not None and not (is_int(window) and 0 < window < MAX_WINDOW):
        raise ConfigError(
            "attention_windows", f"a list of numbers below {MAX_WINDOW}", brief(windows)
        )
    return window_on_each_side(reader, window)


def local_attention(reader: ConfigReader, _: int | None) -> tuple[int, int]:
    """ModernBERT: half of `local_attention` keys before and after a query."""
    side = reader.size("local_attention", 128) // 2
    return side + 1, side


def window_split(_: ConfigReader, window: int | None) -> tuple[int | None, int]:
    """T5Gemma-2's encoder: a window of `sliding_window` keys in all, around a query."""
    return (None, 0) if window is None else ((window + 1) // 2, window // 2)


def unscaled(*_: object) -> float:
    """Gemma-3n, Gemma-4, Dia: queries are normalised instead."""
    return 1.0


def query_pre_attn_scalar(reader: ConfigReader, *_: object) -> float:
    """Gemma 2 and 3, T5Gemma, Step-3.7: query_pre_attn_scalar ** -0.5, by default of head_dim."""
    if reader.get("query_pre_attn_scalar") is None:
        return float(_head_dim(reader) ** -0.5)
    return float(reader.positive("query_pre_attn_scalar") ** -0.5)


def attention_multiplier(reader: ConfigReader, *_: object) -> float:
    """Granite, HyperCLOVA X: `attention_multiplier`."""
    return float(reader.number("attention_multiplier"))


def half_head_dim(reader: ConfigReader, *_: object) -> float:
    """Zamba, Zamba-2: (head_dim / 2) ** -0.5."""
    return float((_head_dim(reader) / 2) ** -0.5)


def inverse_head_dim(reader: ConfigReader, *_: object) -> float:
    """Inkling: 1 / head_dim, and 1 / swa_head_dim in layers with a window."""
    if reader.layer_type == "hybrid_sliding":
        return 1.0 / reader.size("swa_head_dim", 128)
    return 1.0 / _head_dim(reader)


def _head_dim(reader: ConfigReader) -> int:
    width: int = (reader.family.head_dim or from_config)(reader, "default")
    return width


def scale_attn_weights(reader: ConfigReader, *_: object) -> float | None:
    """GPT-2, ImageGPT, GPT-BigCode: 1 if `scale_attn_weights` is false.

    `scale_attn_by_inverse_layer_idx` divides the scale by the layer's number, counted from 1.
    """
    by_layer = reader.get("scale_attn_by_inverse_layer_idx")
    is_scaled = reader.get("scale_attn_weights", True)
    if by_layer and reader.layer is None:
        reader.warn("the softmax scale is divided by the layer's number, from 1 on: name the layer")
    if is_scaled and not by_layer:
        return None
    scale = float(_head_dim(reader) ** -0.5) if is_scaled else 1.0
    return scale / (reader.layer + 1) if by_layer and reader.layer is not None else scale


def disentangled(reader: ConfigReader, *_: object) -> float | None:
    """DeBERTa, SEW-D: (head_dim * (1 + number of kinds in `pos_att_type`)) ** -0.5."""
    kinds = reader.get("pos_att_type") or ()
    kinds = kinds.split("|") if isinstance(kinds, str) else kinds
    if not isinstance(kinds, list | tuple):
        raise ConfigError("pos_att_type", "a list of texts", brief(kinds))
    return float((_head_dim(reader) * (1 + len(kinds))) ** -0.5)


def of_one_head(reader: ConfigReader, *_: object) -> float:
    """EfficientLoFTR: that of a head, although the rotation spans the hidden states."""
    return float((reader.size("hidden_size") // reader.size("num_attention_heads")) ** -0.5)


def latent(reader: ConfigReader, parameters: Parameters, _: RopeConfig | None) -> float:
    """DeepSeek-V3 and other MLA families: that of the whole head, times M ** 2.

    M is YaRN's 0.1 * mscale_all_dim * ln(factor) + 1, of scaled rope types with `mscale_all_dim`.
    """
    scale = float((reader.size("qk_nope_head_dim") + reader.size("qk_rope_head_dim")) ** -0.5)
    m = _mscale(parameters)
    return scale if m is None else scale * m * m


def latent_since_5(reader: ConfigReader, parameters: Parameters, rope: RopeConfig | None) -> float:
    """DeepSeek-V2: that of DeepSeek-V3, but without M in transformers 4.57."""
    if _mscale(parameters) is not None:
        name = reader.family.name
        reader.warn(f"{name}: 5.23 multiplies the softmax scale by mscale, 4.57 does not")
    return latent(reader, {} if reader.is_4_57 else parameters, rope)


def _mscale(parameters: Parameters) -> float | None:
    mscale, factor = parameters.get("mscale_all_dim"), parameters.get("factor")
    if not mscale or not factor or parameters.get("rope_type") == "default":
        return None
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0
