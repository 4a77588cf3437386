"""Steps of reading a config that one family, or a few, do in their own way.

`oddities` of a row in `families.json` maps the name of a step to a function below (or in
remote_code.py), which has the signature of the function that does the step for all other families:

    layer_types           layer_types.py      (reader, layer types) -> layer types
    per_layer_config      layer_types.py      (reader) -> keys and values, by index of a layer
    parameters_label      family.py           (layer type) -> name in nested rope parameters
    typed_parameters      rope_parameters.py  (reader, name, dictionary) -> RopeParameters
    rope_parameters       rope_parameters.py  (reader, RopeParameters) -> RopeParameters
    rope_type             variant.py          (reader, RopeParameters, variant) -> variant
    partial_rotary_factor variant.py          (reader, head_dim, variant) -> (value, source) or None
    variant_parameters    variant.py          (reader, RopeParameters, variant) -> parameters
    rotated_channels      rope_config.py      (reader, RopeParameters, variant, head_dim, factor)
                                              -> width
    heads                 rope_config.py      (reader) -> None, but a warning about heads
    window_size           attention.py        (reader) -> keys in a window
    attention             attention.py        (reader, AttentionConfig) -> AttentionConfig
    version_warnings      rope_config.py      (reader, variant) -> None

Their sources are the modules `configuration_*` and `modeling_*` of transformers, of the families
that the docstrings name.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rope_core.config import AttentionConfig
from rope_core.errors import ConfigError, brief
from rope_core.hf import rope_parameters, variant
from rope_core.hf.config_reader import CLASS_DEFAULT, DERIVED, PER_LAYER, ConfigReader
from rope_core.hf.family import FULL, SLIDING
from rope_core.hf.layer_types import layer_types
from rope_core.hf.rope_parameters import RopeParameters

Factor = tuple[float, str] | None

INDEXED = "indexed_attention"


def local_layers(reader: ConfigReader, attention: AttentionConfig) -> AttentionConfig:
    """GPT-Neo: local layers see `window_size` keys."""
    if reader.layer_type != SLIDING:
        return attention
    return replace(attention, window=reader.size("window_size", 256))


def part_of_keys(reader: ConfigReader, attention: AttentionConfig) -> AttentionConfig:
    """Longformer, BigBird, Reformer, CANINE: tokens see keys near to them, and some others."""
    reader.warn("tokens of this model see a part of the keys only: send which as `mask`")
    return attention


def last_full_attention(_: ConfigReader, types: list[str]) -> list[str]:
    """Gemma-4: the last layer has full attention, whatever the config says."""
    return [*types[:-1], FULL]


def indexed_attention(_: ConfigReader, types: list[str]) -> list[str]:
    """Qwen-4: "full_attention" is another name of "indexed_attention"."""
    return [INDEXED if layer_type == FULL else layer_type for layer_type in types]


def indexed_attention_of_dsa(reader: ConfigReader, types: list[str]) -> list[str]:
    """Dots-3-Note: "full_attention" is an old name of "indexed_attention".

    If `use_dsa` is false, "indexed_attention" means "full_attention". A config with
    `per_layer_config` has new names, unless it has `use_dsa`.
    """
    use_dsa = reader.from_file("use_dsa")
    if use_dsa is None and reader.from_file(PER_LAYER) is not None:
        return types
    old, new = (INDEXED, FULL) if use_dsa is False else (FULL, INDEXED)
    return [new if layer_type == old else layer_type for layer_type in types]


def swa_heads(reader: ConfigReader) -> dict[str, dict[str, Any]]:
    """Dots-3-Note: heads of layers with a window have their own parts, in keys with `swa_`."""
    width = reader.size("swa_head_dim", 256) - reader.size("swa_qk_nope_head_dim", 192)
    values = {
        "qk_rope_head_dim": reader.size("swa_qk_rope_head_dim", width),
        "qk_nope_head_dim": reader.size("swa_qk_nope_head_dim", 192),
    }
    types = layer_types(reader) or []
    return {str(layer): values for layer, name in enumerate(types) if name == SLIDING}


def long_windows(reader: ConfigReader) -> dict[str, dict[str, Any]]:
    """NeoMME: every second layer with a window has one of 1024."""
    types = layer_types(reader) or []
    windowed = [layer for layer, name in enumerate(types) if name == SLIDING]
    return {str(layer): {"sliding_window": 1024} for layer in windowed[1::2]}


def main_or_compress(layer_type: str) -> str:
    """DeepSeek-V4: layers with a window have the parameters "main", all others "compress"."""
    return "main" if layer_type in (SLIDING, "main") else "compress"


def scaled_compressed_layers(
    reader: ConfigReader, name: str, flat: Mapping[str, Any]
) -> RopeParameters | None:
    """DeepSeek-V4: one dictionary counts for compressed layers, without its base.

    Scaled layers have an attention_factor of 1 if the file has none.
    """
    rules = reader.family.rope_parameters_by_type
    label = rope_parameters.choose(reader, rules, "rope parameters")
    if label == "main":
        return rope_parameters.typed(reader, name, flat)
    defaults = dict(rules[label]["default"])
    if flat:
        del defaults["rope_type"]
    of_class = ("rope_theta", "partial_rotary_factor")
    values = {key: value for key, value in flat.items() if key not in of_class}
    if values.get("rope_type", values.get("type")) not in (None, "default"):
        defaults["attention_factor"] = 1.0
    return rope_parameters.complete(reader, name, label, values, defaults, flat, ("rope_theta",))


def same_for_all_types(
    reader: ConfigReader, name: str, flat: Mapping[str, Any]
) -> RopeParameters | None:
    """Dots-3-Note: one dictionary counts for all layers."""
    if not flat:
        return rope_parameters.typed(reader, name, flat)
    label = rope_parameters.choose(reader, reader.family.rope_parameters_by_type, name)
    theta = reader.from_file("rope_theta")
    outside = {} if theta is None or "rope_theta" in flat else {"rope_theta": theta}
    default = {"rope_theta": reader.family.defaults["rope_theta"]}
    return rope_parameters.complete(reader, name, label, {**outside, **flat}, default, flat, ())


def qk_rope_head_dim_of_head(reader: ConfigReader, head_dim: int, _: str) -> Factor:
    """DeepSeek-V4, indexers of sparse attention: `qk_rope_head_dim` channels rotate."""
    return _absolute_width(reader, "qk_rope_head_dim", head_dim)


def rotary_dim_of_head(reader: ConfigReader, head_dim: int, _: str) -> Factor:
    """MiniMax-M2 and M3: `rotary_dim` channels rotate."""
    return _absolute_width(reader, "rotary_dim", head_dim)


def _absolute_width(reader: ConfigReader, key: str, head_dim: int) -> Factor:
    if reader.get(key) is not None:
        return reader.size(key) / head_dim, DERIVED
    value = reader.family.defaults.get("partial_rotary_factor")
    return None if value is None else (value, CLASS_DEFAULT)


def mimo_default_factor(_: ConfigReader, __: int, rope_type: str) -> Factor:
    """MiMo-V2: 0.334 of a head rotates, if frequencies are not scaled."""
    return (0.334, CLASS_DEFAULT) if rope_type == "default" else None


def unscaled_layers(reader: ConfigReader, block: RopeParameters) -> RopeParameters:
    """Molmo-2: layers that `rope_scaling_layers` does not list have default frequencies."""
    scaled = None if block.nested else reader.integers("rope_scaling_layers")
    if scaled is None:
        return block
    if reader.layer is None:
        reader.warn(
            "rope_scaling_layers: this is for the listed layers, others have default frequencies"
        )
    if reader.layer is None or reader.layer in scaled:
        return block
    plain = {
        key: value for key, value in block.values.items() if key in rope_parameters.OUTSIDE_IN_4_57
    }
    return replace(block, values=plain)


def theta_of_last_layer(reader: ConfigReader, block: RopeParameters) -> RopeParameters:
    """UltraBERT: of a list of bases, that of the last layer of a type counts for the type."""
    label = block.label or ""
    if isinstance(block.outer.get(label), Mapping):
        return block
    bases = reader.from_file("rope_theta")
    if not isinstance(bases, list):
        return block
    theta = rope_parameters.values_of_type(reader, "rope_theta", bases, label)[-1]
    paths = {**block.keys, "rope_theta": reader.key_name("rope_theta")}
    return replace(block, values={**block.values, "rope_theta": theta}, keys=paths)


def ntk_alpha_type(reader: ConfigReader, block: RopeParameters, rope_type: str) -> str:
    """HunYuan: "dynamic" with `alpha` is NTK scaling by alpha, whatever the length of a call.

    transformers 4.57 computes dynamic frequencies, without alpha, for long calls.
    """
    if rope_type != "dynamic" or not block.values.get("alpha"):
        return rope_type
    reader.warn("hunyuan: beyond max_position_embeddings 4.57 forgets alpha, 5.23 keeps it")
    return "dynamic" if reader.is_4_57 else "ntk_alpha"


def ntk_alpha_parameters(
    reader: ConfigReader, block: RopeParameters, rope_type: str
) -> dict[str, Any]:
    """HunYuan: see `ntk_alpha_type`."""
    if rope_type not in ("dynamic", "ntk_alpha") or not block.values.get("alpha"):
        return variant.parameters(reader, block, rope_type)
    if rope_type == "dynamic" and block.values.get("factor") is None:
        block = replace(block, values={**block.values, "factor": 1.0})
    values = variant.parameters(reader, block, rope_type)
    return values | {"alpha": variant.named_parameter(reader, block, rope_type, "alpha")}


def phimoe_parameters(
    reader: ConfigReader, block: RopeParameters, rope_type: str
) -> dict[str, Any]:
    """PhiMoE: LongRoPE has one gain for short and one for long calls, and is the only variant.

    transformers 5.23 does not use long_factor, because the call does not pass the length on. The
    trained length is that of the dictionary; if it is missing, 4.57 reads that of the config, and
    5.23 max_position_embeddings.
    """
    if rope_type == "default":
        return variant.parameters(reader, block, rope_type)
    if rope_type != "longrope":
        raise ConfigError(f"{block.name}.rope_type", "default or longrope for phimoe", rope_type)
    values = variant.named_parameters(reader, block, rope_type)
    inside = block.values.get(variant.ORIGINAL)
    outside = None if block.nested else reader.get(variant.ORIGINAL)
    outside = outside if inside is None and reader.is_4_57 else None
    values[variant.ORIGINAL] = variant.original_length(reader, block, inside, outside)
    values["max_position_embeddings"] = reader.size("max_position_embeddings")
    variant.choose_longrope_factor(reader, block, values)
    for key in ("short_mscale", "long_mscale"):
        if key not in values:
            raise ConfigError(f"{block.name}.{key}", "given for phimoe", "none")
    if not reader.is_4_57:
        values["long_factor"] = values.get("short_factor")
    reader.warn("phimoe: 5.23 never uses long_factor, 4.57 does beyond the trained length")
    return values


def axes_fill_hidden_size(
    reader: ConfigReader, _: RopeParameters, __: str, hidden_size: int, factor: float | None
) -> int:
    """EfficientLoFTR: an axis is `partial_rotary_factor` heads wide, two fill the hidden states.

    Raises:
        ConfigError: two axes are not as wide as the hidden states.
    """
    num_heads = reader.size("num_attention_heads")
    if 2 * int(hidden_size // num_heads * (factor or 0)) != hidden_size:
        expected = f"{num_heads / 2}: with it, two axes fill hidden_size {hidden_size}"
        raise ConfigError(reader.key_name("partial_rotary_factor"), expected, brief(factor))
    return hidden_size


def first_head_only(reader: ConfigReader) -> None:
    """Qwen2.5-Omni's DiT: only the first head rotates."""
    reader.warn(f"{reader.family.name} rotates only the first head: send no other")


def position_is_head(reader: ConfigReader) -> None:
    """NeuCodec, X-Codec-2: the position is the index of the head."""
    reader.warn(f"{reader.family.name} rotates by the index of the head: send heads as tokens")


def bidirectional_attention(reader: ConfigReader, attention: AttentionConfig) -> AttentionConfig:
    """Gemma-3: `use_bidirectional_attention` sees keys on both sides (EmbeddingGemma)."""
    if not reader.from_file("use_bidirectional_attention"):
        return attention
    window = attention.window if reader.layer_type == SLIDING else None
    side = (window or 0) // 2
    return replace(attention, causal=False, window=side + 1 if side else None, window_ahead=side)


def window_and_query(reader: ConfigReader, attention: AttentionConfig) -> AttentionConfig:
    """MiMo-V2: `sliding_window_size` keys before a query."""
    if attention.window is None or reader.from_file("sliding_window_size") is None:
        return attention
    return replace(attention, window=reader.size("sliding_window_size") + 1)


def half_of_local_attention(reader: ConfigReader, attention: AttentionConfig) -> AttentionConfig:
    """ModernBERT's decoder: a window of half of `local_attention`."""
    if reader.layer_type != SLIDING:
        return attention
    return replace(attention, window=reader.size("local_attention") // 2)


def window_without_switch(reader: ConfigReader, attention: AttentionConfig) -> AttentionConfig:
    """SmolLM3: layers with a window have it even if `use_sliding_window` is false."""
    if reader.layer_type != SLIDING or reader.from_file("sliding_window") is None:
        return attention
    return replace(attention, window=reader.size("sliding_window"))


def window_in_full_attention(reader: ConfigReader, attention: AttentionConfig) -> AttentionConfig:
    """MiniMax: `sliding_window` counts in layers with full attention."""
    if reader.layer_type != FULL or reader.from_file("sliding_window") is None:
        return attention
    return replace(attention, window=reader.size("sliding_window"))


def reference_window(reader: ConfigReader, attention: AttentionConfig) -> AttentionConfig:
    """Unlimited-OCR: keys of the prompt stay visible, and only generated ones have a window."""
    if attention.window is not None:
        reader.warn("keys of the prompt are visible beside the window: send a mask")
    return attention


def olmo3_theta(reader: ConfigReader, _: str) -> None:
    """OLMo-3: `rope_theta` outside of the dictionary, which 5.23 reads for one layer type only."""
    if reader.from_file("rope_theta") not in (None, 500_000.0):
        reader.warn("olmo3: rope_theta reaches full-attention layers only (4.57: every layer)")


def olmo2_yarn(reader: ConfigReader, rope_type: str) -> None:
    """OLMo-2: transformers 4.57 refuses YaRN."""
    if rope_type == "yarn":
        reader.warn("olmo2: transformers 4.57 refuses yarn")
