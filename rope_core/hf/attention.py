"""How a layer attends: what it sees, and the multiplier of its scores."""

import math
from collections.abc import Mapping
from typing import Any

from rope_core.config import AttentionConfig, RopeConfig
from rope_core.errors import ConfigError
from rope_core.hf.config_reader import Reader
from rope_core.hf.layer_types import has_window

MAX_WINDOW = 2**31 - 1


def attention(
    reader: Reader, parameters: Mapping[str, Any], rope: RopeConfig | None
) -> AttentionConfig:
    """Return how the layer asked for attends."""
    family = reader.family
    both_sides = bool(family.bidirectional and reader.given(family.bidirectional))
    causal = family.causal and not both_sides
    chunk = None
    if reader.layer_type == "chunked_attention":
        chunk = _seen(reader, "attention_chunk_size")
    size, ahead = None, 0
    if _is_windowed(reader):
        size = _seen(reader, "sliding_window")
    if not causal and reader.layer_type == "sliding_attention":
        size, ahead = _two_sided(reader, size, "halved" if both_sides else family.two_sided)
    softcap = None
    if "attn_logit_softcapping" in family.defaults and not reader.is_null("attn_logit_softcapping"):
        softcap = reader.positive("attn_logit_softcapping")
    _warn_of_temperature(reader, parameters, rope)
    return AttentionConfig(
        causal=causal,
        window=size if causal or ahead else None,
        window_ahead=ahead,
        chunk=chunk,
        softcap=softcap,
        scale=_scale(reader, parameters, rope),
    )


def _warn_of_temperature(
    reader: Reader, parameters: Mapping[str, Any], rope: RopeConfig | None
) -> None:
    """Say where a model scales queries by their position, which is left to the caller."""
    tuned = rope is None and reader.family.defaults.get("attn_temperature_tuning")
    if tuned and reader.get("attn_temperature_tuning"):
        rule = "1 + attn_scale * ln(1 + floor((position + 1) / floor_scale))"
        reader.warn(f"queries of this layer are to be multiplied by {rule}")
    if parameters.get("llama_4_scaling_beta"):
        rule = "1 + llama_4_scaling_beta * ln(1 + floor(position / original length))"
        reader.warn(f"queries are to be multiplied by {rule}, before or after rotation")


def _is_windowed(reader: Reader) -> bool:
    """Whether a query of this layer sees a window of keys only."""
    if not has_window(reader):
        return False
    kind, family = reader.layer_type, reader.family
    if kind is None:  # all layers alike, unless something tells them apart
        return not (family.cycle or family.stack or reader.given("layer_types"))
    return "sliding" in kind


def _two_sided(reader: Reader, size: int | None, rule: str | None) -> tuple[int | None, int]:
    """Return how many keys back a query sees, its own included, and how many ahead."""
    match rule:
        case "local_attention":
            size = reader.size("local_attention", 128) // 2
            return size + 1, size
        case "radius" if size is not None:
            return size + 1, size
        case "halved" if size is not None:
            return size // 2 + 1, size // 2
        case "halves" if size is not None:
            return (size + 1) // 2, size // 2
    return size, 0


def _seen(reader: Reader, key: str) -> int:
    """Return a number of keys."""
    size = reader.size(key)
    if size >= MAX_WINDOW:
        raise ConfigError(reader.name(key), f"below {MAX_WINDOW}", size)
    return size


def _scale(reader: Reader, parameters: Mapping[str, Any], rope: RopeConfig | None) -> float | None:
    """Return the softmax scale, None where it is head_dim ** -0.5 of whatever is given."""
    rule = reader.family.scale
    match rule:
        case float() | int():
            return float(rule)
        case "query_pre_attn_scalar":
            return float(reader.positive("query_pre_attn_scalar") ** -0.5)
        case "attention_multiplier":
            return float(reader.number("attention_multiplier"))
        case "half_head_dim" if rope is not None:
            return float((rope.head_dim / 2) ** -0.5)
        case "mla":
            return _latent_scale(reader, parameters)
    return None


def _latent_scale(reader: Reader, parameters: Mapping[str, Any]) -> float:
    """Return MLA's scale, by the whole head, times the square of YaRN's M for mscale_all_dim."""
    scale = float((reader.size("qk_nope_head_dim") + reader.size("qk_rope_head_dim")) ** -0.5)
    every, factor = parameters.get("mscale_all_dim"), parameters.get("factor")
    if not every or not factor or parameters.get("rope_type") == "default":
        return scale
    if reader.family.name == "deepseek_v2":
        reader.warn("deepseek_v2: 5.23 multiplies the softmax scale by mscale, 4.57 does not")
        if reader.legacy:
            return scale
    mscale = 0.1 * every * math.log(factor) + 1.0 if factor > 1 else 1.0
    return scale * mscale * mscale
