"""Steps of reading a config that one family, or a few, do in their own way.

`oddities` of a row in `families.json` maps the name of a step to a function below (or in
remote_code.py), which has the signature of the function that does the step for all other families:

    parameters_label      family.py           (layer type) -> name in nested rope parameters
    typed_parameters      rope_parameters.py  (reader, name, dictionary) -> RopeParameters
    rope_parameters       rope_parameters.py  (reader, RopeParameters) -> RopeParameters
    rope_type             variant.py          (reader, RopeParameters, variant) -> variant
    partial_rotary_factor variant.py          (reader, head_dim, variant) -> (value, source) or None
    variant_parameters    variant.py          (reader, RopeParameters, variant) -> parameters
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
from rope_core.errors import ConfigError
from rope_core.hf import rope_parameters, variant
from rope_core.hf.config_reader import CLASS_DEFAULT, DERIVED, ConfigReader
from rope_core.hf.family import SLIDING
from rope_core.hf.rope_parameters import RopeParameters

Factor = tuple[float, str] | None


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
    values = {key: value for key, value in flat.items() if key != "rope_theta"}
    if values.get("rope_type", values.get("type")) not in (None, "default"):
        defaults["attention_factor"] = 1.0
    return rope_parameters.complete(reader, name, label, values, defaults, flat, ("rope_theta",))


def qk_rope_head_dim_of_head(reader: ConfigReader, head_dim: int, _: str) -> Factor:
    """DeepSeek-V4: `qk_rope_head_dim` channels rotate."""
    return _absolute_width(reader, "qk_rope_head_dim", head_dim)


def rotary_dim_of_head(reader: ConfigReader, head_dim: int, _: str) -> Factor:
    """MiniMax-M2 and M3: `rotary_dim` channels rotate."""
    return _absolute_width(reader, "rotary_dim", head_dim)


def _absolute_width(reader: ConfigReader, key: str, head_dim: int) -> Factor:
    if reader.get(key) is not None:
        return reader.number(key) / head_dim, DERIVED
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
    nested = block.outer.get(label)
    if isinstance(nested, Mapping) and "rope_theta" in nested:
        return block
    bases = reader.from_file("rope_theta")
    if not isinstance(bases, list):
        return block
    theta = rope_parameters.values_of_type(reader, "rope_theta", bases, label)[-1]
    return replace(block, values={**block.values, "rope_theta": theta})


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


def olmo3_theta(reader: ConfigReader, _: str) -> None:
    """OLMo-3: `rope_theta` outside of the dictionary, which 5.23 reads for one layer type only."""
    if reader.from_file("rope_theta") not in (None, 500_000.0):
        reader.warn("olmo3: rope_theta reaches full-attention layers only (4.57: every layer)")


def olmo2_yarn(reader: ConfigReader, rope_type: str) -> None:
    """OLMo-2: transformers 4.57 refuses YaRN."""
    if rope_type == "yarn":
        reader.warn("olmo2: transformers 4.57 refuses yarn")
