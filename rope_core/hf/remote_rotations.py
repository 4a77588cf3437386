"""Families of remote code whose configs have keys of their own, and no rope parameters.

The functions are as those of custom_rotations.py: each takes the reader, and returns the fields of
a `RopeConfig`. `source` of a row in `remote_families.json` is the code that they follow.
"""

from collections.abc import Mapping
from typing import Any

from rope_core.errors import ConfigError, brief
from rope_core.hf import variant
from rope_core.hf.config_reader import DERIVED, ConfigReader, is_number
from rope_core.hf.head_dim import derived, named

Fields = dict[str, Any]


def chatglm(reader: ConfigReader) -> Fields:
    """ChatGLM2, ChatGLM3, GLM-4: half of each head, and `rope_ratio` multiplies the base 10,000."""
    if reader.get("position_encoding_2d") is not None:
        expected = "absent (ChatGLM2 and later), because ChatGLM-6B rounds frequencies to float16"
        raise ConfigError(
            "position_encoding_2d", expected, brief(reader.get("position_encoding_2d"))
        )
    reader.from_file("original_rope")  # the published code has one rotation for both of its values
    width = derived(reader)
    if reader.get("kv_channels") is not None:
        width = named(reader, "kv_channels")
    ratio = reader.positive("rope_ratio", 1.0)
    if ratio != 1 and reader.get("num_hidden_layers") == 28:  # not GLM-4
        reader.warn(
            "rope_ratio multiplies the base; chatglm2-6b-32k divides positions by it instead"
        )
    formula = "10000 * rope_ratio" if reader.from_file("rope_ratio") is not None else "10000"
    reader.record("rope_theta", DERIVED, formula)
    return {"head_dim": width, "rotary_dim": width // 2, "theta": 10_000.0 * ratio}


def qwen(reader: ConfigReader) -> Fields:
    """Qwen-1: `use_dynamic_ntk` grows the base in steps beyond `seq_length`."""
    head_dim = derived(reader)
    channels = reader.size("kv_channels", head_dim)
    share = reader.positive("rotary_pct", 1.0)
    fields: Fields = {
        "head_dim": head_dim,
        "rotary_dim": channels if share == 1 else int(channels * share),
        "theta": reader.positive("rotary_emb_base", 10_000.0),
    }
    if reader.get("use_dynamic_ntk"):
        trained = reader.size("seq_length")
        fields |= {"rope_type": "dynamic_alpha", variant.ORIGINAL: trained}
        reader.warn("use_dynamic_ntk: decoding keeps the base of the prompt: send its length")
    if reader.get("use_logn_attn"):
        rule = f"max(1, ln(position + 1) / ln({reader.size('seq_length')}))"
        reader.warn(f"use_logn_attn: the caller has to multiply queries by {rule}")
    return fields


def gte_new(reader: ConfigReader) -> Fields:
    """GTE's NewModel: `rope_scaling` of type "ntk" scales every pair, at every length."""
    fields: Fields = {"head_dim": derived(reader), "theta": reader.positive("rope_theta", 10_000.0)}
    scaling = reader.from_file("rope_scaling")
    if reader.get("logn_attention_scale"):
        reader.warn("logn_attention_scale: the caller has to scale queries by the length")
    if scaling is None:
        return fields
    if not isinstance(scaling, Mapping) or scaling.get("type") != "ntk":
        raise ConfigError("rope_scaling.type", '"ntk"', brief(scaling))
    parameters = {
        key: scaling[key] for key in ("factor", "mixed_b") if scaling.get(key) is not None
    }
    for key, value in parameters.items():
        variant.check_parameter(f"rope_scaling.{key}", value, "ntk_mixed", key)
    if parameters.get("factor") == 1:
        return fields
    return {**fields, "rope_type": "ntk_mixed", **parameters}


def nomic_bert(reader: ConfigReader) -> Fields:
    """Nomic's own code: `rotary_emb_*`, and dynamic NTK by `rotary_scaling_factor`."""
    head_dim = derived(reader)
    if reader.from_file("rotary_emb_fraction") is None:
        reader.warn("rotary_emb_fraction is missing: read as 1; nomic's class has 0, no rotation")
    share = reader.positive("rotary_emb_fraction", 1.0)
    fields: Fields = {
        "head_dim": head_dim,
        "rotary_dim": int(head_dim * share),
        "theta": reader.positive("rotary_emb_base", 10_000.0),
        "layout": "interleaved" if reader.get("rotary_emb_interleaved") else "half",
    }
    scale_base = reader.get("rotary_emb_scale_base")
    if reader.get("rotary_head_dim"):
        reader.warn("rotary_head_dim: the position is the index of the head, send heads as tokens")
    if not reader.get("rotary_scaling_factor"):
        if scale_base is not None:
            reader.warn("rotary_emb_scale_base is read and not used by nomic's code")
        return fields
    if scale_base is not None:
        expected = "null with rotary_scaling_factor: nomic's code would scale keys as queries"
        raise ConfigError("rotary_emb_scale_base", expected, brief(scale_base))
    return {
        **fields,
        "rope_type": "dynamic",
        "factor": reader.positive("rotary_scaling_factor"),
        "max_position_embeddings": reader.size("max_trained_positions", 2048),
    }


def xlm_roberta_flash(reader: ConfigReader) -> Fields:
    """Jina's XLM-RoBERTa: `rotary_emb_*`, of which the width is absolute."""
    head_dim = derived(reader)
    if (scale_base := reader.get("rotary_emb_scale_base")) is not None:
        raise ConfigError("rotary_emb_scale_base", "null", brief(scale_base))
    reader.from_file("position_embedding_type")
    return {
        "head_dim": head_dim,
        "rotary_dim": reader.size("rotary_emb_dim", head_dim),
        "theta": reader.positive("rotary_emb_base", 10_000.0),
        "layout": "interleaved" if reader.get("rotary_emb_interleaved") else "half",
    }


def mpt(reader: ConfigReader) -> Fields:
    """MPT with `attn_config.rope`: `rope_impl` names the implementation."""
    options = attn_config(reader)
    fields: Fields = {
        "head_dim": derived(reader),
        "theta": option(options, "rope_theta", 10_000),
    }
    implementation = options.get("rope_impl", "dail")
    if implementation not in ("dail", "hf"):
        raise ConfigError("attn_config.rope_impl", '"dail" or "hf"', brief(implementation))
    key = f"rope_{implementation}_config"
    inner = options.get(key) or {}
    if not isinstance(inner, Mapping):
        raise ConfigError(f"attn_config.{key}", "an object", brief(inner))
    kinds = {"dail": ("original", "xpos"), "hf": ("no_scaling", "linear", "dynamic")}
    kind = inner.get("type", kinds[implementation][0])
    if kind not in kinds[implementation]:
        expected = f"one of {[*kinds[implementation]]}"
        raise ConfigError(f"attn_config.{key}.type", expected, brief(kind))
    if kind == "xpos":
        scale_base = option(inner, "xpos_scale_base", 512, f"attn_config.{key}")
        return {**fields, "rope_type": "xpos", "scale_base": scale_base}
    if kind in ("linear", "dynamic"):
        fields |= {
            "rope_type": kind,
            "factor": option(inner, "factor", 1.0, f"attn_config.{key}"),
        }
    if kind == "dynamic":
        fields["max_position_embeddings"] = reader.size("max_position_embeddings")
    return fields


def attn_config(reader: ConfigReader) -> Mapping[str, Any]:
    """Return MPT's and DBRX's options of attention."""
    options = reader.from_file("attn_config")
    if options is not None and not isinstance(options, Mapping):
        raise ConfigError("attn_config", "an object", brief(options))
    return options or {}


def option(values: Mapping[str, Any], key: str, default: float, path: str = "attn_config") -> float:
    """Return a number above 0 of an object that is inside of the config under `path`."""
    value = values.get(key, default)
    if not is_number(value) or value <= 0:
        raise ConfigError(f"{path}.{key}", "a number above 0", brief(value))
    return float(value)


def meta_params(reader: ConfigReader) -> Fields:
    """Meta's params.json: `use_scaled_rope` is Llama 3.1's scaling with fixed numbers."""
    if reader.from_file("rope_theta") is None:
        reader.warn("rope_theta is missing: 10000 as in Llama 2; the code of Llama 3 has 500000")
    fields: Fields = {"head_dim": derived(reader), "theta": reader.positive("rope_theta", 10_000.0)}
    if not reader.get("use_scaled_rope"):
        return fields
    reader.warn("use_scaled_rope: factor 8 as in Meta's code; config.json of Llama 3.2 has 32")
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    return {**fields, "rope_type": "llama3", **scaling, variant.ORIGINAL: 8192}
