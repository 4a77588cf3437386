"""Rules of families whose modeling code is in the repository of the model, not in transformers.

The functions are named in the rows of `remote_families.json`; `source` of the row is the code that
the rule follows. They are of the kinds that the other modules have: rules of layers that do not
rotate (nope.py), of a head's width (head_dim.py), of types of layers (layer_types.py), of softmax
scales (attention.py), and steps (oddities.py). remote_rotations.py has those of whole configs. The
last functions are of indexers of sparse attention, whose rows are in the same table.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rope_core.config import AttentionConfig, RopeConfig
from rope_core.errors import ConfigError, brief
from rope_core.hf import variant
from rope_core.hf.config_forms import MLA_WIDTHS
from rope_core.hf.config_reader import ConfigReader, is_int, is_number
from rope_core.hf.family import FULL, SLIDING
from rope_core.hf.head_dim import from_config, named
from rope_core.hf.nope import ALIBI, LEARNED, LIGHTNING, NONE, without_rope
from rope_core.hf.remote_rotations import attn_config, option
from rope_core.hf.rope_parameters import RopeParameters

BLOCKSPARSE = "blocksparse_attention"
"""The type of Phi-3-small's layers that see blocks of keys."""

WIDTH_7B, WIDTH_13B = 4096, 5120
"""Hidden sizes of Baichuan's models, which share a model_type."""


def mistral_yarn(reader: ConfigReader, block: RopeParameters) -> RopeParameters:
    """Mistral's params.json: `yarn`, with `beta` and `alpha` for beta_fast and beta_slow."""
    scaling = reader.from_file("llama_4_scaling")
    if isinstance(scaling, Mapping) and is_number(scaling.get("beta")):
        beta, length = scaling["beta"], brief(scaling.get(variant.ORIGINAL))
        rule = f"1 + {beta} * ln(1 + floor(position / {length}))"
        reader.warn(f"llama_4_scaling: the caller has to multiply queries by {rule}")
    yarn = reader.from_file("yarn")
    if not yarn:
        return block
    if not isinstance(yarn, Mapping):
        raise ConfigError("yarn", "an object or null", brief(yarn))
    for key in ("factor", variant.ORIGINAL):
        if yarn.get(key) is None:
            raise ConfigError(f"yarn.{key}", "given", "none")
    names = {"beta": "beta_fast", "alpha": "beta_slow"}
    values: dict[str, Any] = {names.get(str(key), str(key)): value for key, value in yarn.items()}
    has_scale = values.pop("apply_scale", True) is not False
    values["rope_type"] = "yarn"
    if not has_scale:
        values["attention_factor"] = 1.0
    elif reader.family.softmax_scale:  # MLA: the softmax scale has the correction
        values |= {"mscale": 1.0, "mscale_all_dim": 1.0}
    paths = {names.get(str(key), str(key)): f"yarn.{key}" for key in yarn}
    paths |= {"rope_type": "yarn"}
    paths |= dict.fromkeys(("attention_factor", "mscale", "mscale_all_dim"), "yarn.apply_scale")
    return replace(
        block, name="yarn", values=values, from_file=frozenset(values), outer=values, keys=paths
    )


def mistral_parameters(reader: ConfigReader, block: RopeParameters) -> RopeParameters:
    """Mistral's params.json: `yarn`; and the base 10,000 if layers have a window and no base."""
    block = mistral_yarn(reader, block)
    has_window = reader.from_file("sliding_window") is not None
    if not has_window or reader.from_file("rope_theta") is not None:
        return block
    values = {**block.values, "rope_theta": 10_000.0}
    return replace(block, values=values, outer=values)


def mistral_windows(reader: ConfigReader, total: int) -> list[str]:
    """Mistral's params.json: `sliding_window` is one for all layers, or a list to repeat."""
    windows = reader.from_file("sliding_window")
    if not isinstance(windows, list):
        return [FULL if windows is None else SLIDING] * total
    sizes = [size for size in windows if size is not None]
    if not windows or not all(is_int(size) and size == sizes[0] for size in sizes):
        raise ConfigError("sliding_window", "a list of null and one whole number", brief(windows))
    return [FULL if windows[i % len(windows)] is None else SLIDING for i in range(total)]


def mistral_window_size(reader: ConfigReader) -> int:
    """Mistral's params.json: the one size in a list of windows."""
    windows = reader.from_file("sliding_window")
    sizes = [size for size in windows if size is not None] if isinstance(windows, list) else []
    return sizes[0] if sizes else reader.size("sliding_window")


def phi3small_parameters(reader: ConfigReader, block: RopeParameters) -> RopeParameters:
    """Phi-3-small: `rope_position_scale` divides positions, unless there is `rope_scaling`."""
    if block.values:
        return block
    scale = reader.positive("rope_position_scale", 1.0)
    values = {} if scale == 1 else {"rope_type": "linear", "factor": scale}
    paths = dict.fromkeys(values, "rope_position_scale")
    return replace(block, name="rope_position_scale", values=values, outer=values, keys=paths)


def phi3small_longrope(
    reader: ConfigReader, block: RopeParameters, rope_type: str
) -> dict[str, Any]:
    """Phi-3-small: `short_mscale` and `long_mscale` are the gains of short and long calls."""
    values = variant.parameters(reader, block, rope_type)
    for key in ("short_mscale", "long_mscale") if rope_type == "longrope" else ():
        if block.values.get(key) is not None:
            values[key] = variant.named_parameter(reader, block, rope_type, key)
    return values


def mup_attn_multiplier(
    reader: ConfigReader, _: Mapping[str, Any], rope: RopeConfig | None
) -> float | None:
    """Phi-3-small: mup_attn_multiplier / head_dim, if `mup_use_scaling`."""
    if rope is None or reader.get("mup_use_scaling") is False:
        return None
    return reader.positive("mup_attn_multiplier", 1.0) / rope.head_dim


def attn_config_softmax_scale(reader: ConfigReader, *_: object) -> float | None:
    """MPT: `attn_config.softmax_scale`."""
    scale = attn_config(reader).get("softmax_scale")
    if scale is not None and not is_number(scale):
        raise ConfigError("attn_config.softmax_scale", "a number", brief(scale))
    return None if scale is None else float(scale)


def dense_or_blocksparse(reader: ConfigReader, total: int) -> list[str]:
    """Phi-3-small: only every n-th layer (`dense_attention_every_n_layers`) sees all keys."""
    interval = reader.get("dense_attention_every_n_layers")
    every = reader.size("dense_attention_every_n_layers") if interval else total + 1
    return [BLOCKSPARSE if (layer + 1) % every else FULL for layer in range(total)]


def blocksparse_attention(reader: ConfigReader, attention: AttentionConfig) -> AttentionConfig:
    """Phi-3-small: layers of the type `blocksparse_attention` see blocks of keys."""
    if reader.layer_type == BLOCKSPARSE:
        reader.warn("this layer attends to blocks of keys: send their pattern as `mask`")
    return attention


def layer_group_size(reader: ConfigReader, total: int) -> list[str]:
    """Ling-linear: the last layer of each `layer_group_size` has full attention.

    So do the layers after the last whole group. The others have linear attention.
    """
    size = reader.size("layer_group_size", 1)
    whole = total // size * size
    return [
        FULL if (layer + 1) % size == 0 or layer >= whole else LIGHTNING for layer in range(total)
    ]


def linear_rope(reader: ConfigReader, _: int | None, layer_type: str | None) -> str | None:
    """Ling-linear: layers with linear attention rotate as the others, if `linear_rope` is true."""
    if layer_type != LIGHTNING or reader.from_file("linear_rope") is not False:
        return None
    return "linear_rope is false"


def internlm_rotary(reader: ConfigReader, block: RopeParameters) -> RopeParameters:
    """InternLM: `rotary` has the type ("origin" or "dynamic"), the base and the factor."""
    rotary = reader.from_file("rotary")
    if rotary is None:
        return block
    types = {"origin": "default", "dynamic": "dynamic"}
    if not isinstance(rotary, Mapping) or rotary.get("type") not in [*types]:
        raise ConfigError("rotary.type", f"one of {sorted(types)}", brief(rotary))
    values = {"rope_type": types[rotary["type"]], "rope_theta": rotary.get("base", 10_000)}
    if rotary["type"] == "dynamic":
        values["factor"] = rotary.get("scaling_factor", 1.0)
    names = {"rope_type": "type", "rope_theta": "base", "factor": "scaling_factor"}
    paths = {parameter: f"rotary.{name}" for parameter, name in names.items()}
    return replace(
        block, name="rotary", values=values, from_file=frozenset(values), outer=values, keys=paths
    )


def dbrx_theta(reader: ConfigReader, block: RopeParameters) -> RopeParameters:
    """DBRX: `attn_config.rope_theta`, which transformers 5.23 does not read."""
    if reader.from_file("rope_theta") is not None or "rope_theta" in block.from_file:
        return block
    if attn_config(reader).get("rope_theta") is None:
        return block
    theta = option(attn_config(reader), "rope_theta", 10_000)
    reader.warn("attn_config.rope_theta counts, as in databricks' code; 5.23 has 10000 instead")
    values = {**block.values, "rope_theta": theta}
    from_file, paths = block.from_file | {"rope_theta"}, {"rope_theta": "attn_config.rope_theta"}
    return replace(block, values=values, from_file=from_file, outer=values, keys=paths)


def baichuan(reader: ConfigReader, _: int | None, __: str | None) -> str | None:
    """Baichuan: the 13B models have ALiBi, the 7B models rotate; their model_type is the same."""
    architectures = reader.from_file("architectures")
    if isinstance(architectures, list) and "BaiChuanForCausalLM" in architectures:
        return None
    width = reader.size("hidden_size")
    has_length = reader.from_file("max_position_embeddings") is not None  # a key of the 7B's class
    is_7b = width == WIDTH_7B or (width != WIDTH_13B and has_length)
    if is_7b:
        return None
    why = f"hidden_size {width}: the code of Baichuan-13B"
    if width != WIDTH_13B:
        why = f"no max_position_embeddings, and hidden_size {width}: the code of Baichuan-13B"
    return without_rope(reader, ALIBI, why)


def jais(reader: ConfigReader, _: int | None, __: str | None) -> str:
    """Jais: `position_embedding_type` is "alibi" or "learned"."""
    if reader.get("mup_scale_qk_dot_by_d"):
        reader.warn("mup_scale_qk_dot_by_d: scores are divided by head_dim, so send `scale`")
    kind = reader.get("position_embedding_type")
    return without_rope(reader, ALIBI if kind == "alibi" else LEARNED)


def mpt_rope(reader: ConfigReader, _: int | None, __: str | None) -> str | None:
    """MPT: ALiBi or learned positions, unless `attn_config.rope` is true."""
    options = attn_config(reader)
    if options.get("rope"):
        return None
    if options.get("alibi") is False:
        if reader.from_file("learned_pos_emb") is False:
            return without_rope(reader, NONE, "learned_pos_emb is false")
        return without_rope(reader, LEARNED)
    largest = option(options, "alibi_bias_max", 8)
    if largest != 8:
        reader.warn(f"attn_config.alibi_bias_max: the slopes have {largest:g} in place of 8")
    return without_rope(reader, ALIBI)


def both_sides_alibi(reader: ConfigReader, _: int | None, __: str | None) -> str:
    """Jina-BERT, MosaicBERT: biases of the distance to keys on both sides."""
    reader.from_file("position_embedding_type")
    reader.from_file("alibi_starting_size")  # of a buffer that grows
    return without_rope(reader, ALIBI)


def position_embedding_is_absolute(
    reader: ConfigReader, _: int | None, __: str | None
) -> str | None:
    """GTE's NewModel: `position_embedding_type` is "rope" or "absolute"."""
    if reader.get("position_embedding_type") != "absolute":
        return None
    return without_rope(reader, LEARNED, "position_embedding_type is absolute")


def rotary_emb_fraction(reader: ConfigReader, _: int | None, __: str | None) -> str | None:
    """Nomic's own code: no layer rotates if `rotary_emb_fraction` is 0."""
    if reader.get("rotary_emb_fraction") != 0:
        return None
    return without_rope(reader, LEARNED, "rotary_emb_fraction is 0")


def no_op_attention(reader: ConfigReader, layer: int | None, _: str | None) -> str | None:
    """Nemotron-NAS: `block_configs` lists the layers without attention."""
    if layer is None or reader.from_file("block_configs") is None:
        return None
    block = reader.of_layer("block_configs", "objects", layer)
    attention = block.get("attention") if isinstance(block, Mapping) else None
    if not isinstance(attention, Mapping):
        raise ConfigError(f"block_configs[{layer}].attention", "an object", brief(attention))
    for key in ("no_op", "replace_with_linear"):
        if attention.get(key):
            return f"block_configs[{layer}].attention.{key}: no queries and keys"
    return None


def without_mla(reader: ConfigReader, rope_type: str) -> int:
    """DeepSeek's models without MLA: widths of an MLA head are 0, and heads are Llama's."""
    for key in MLA_WIDTHS:
        reader.from_file(key)
    return from_config(reader, rope_type)


def index_head_dim(reader: ConfigReader, _: str) -> int:
    """Indexers of sparse attention: `index_head_dim`; `head_dim` is that of the attention."""
    reader.from_file("head_dim")
    return named(reader, "index_head_dim")


def indexer_types(reader: ConfigReader, layer: int | None, _: str | None) -> str | None:
    """GLM-5's indexer: `indexer_types` lists the layers that share that of an earlier layer."""
    if layer is None or reader.from_file("indexer_types") is None:
        return None
    indexer_type = reader.of_layer("indexer_types", "texts", layer)
    return None if indexer_type == "full" else f"indexer_types[{layer}] is {brief(indexer_type)}"


def only_indexed_layers(_: ConfigReader, __: int | None, layer_type: str | None) -> str | None:
    """Dots-3's indexer: layers with a window have none."""
    return "layers with a window have no indexer" if layer_type == SLIDING else None


def attention_head_dim(reader: ConfigReader, rope_type: str) -> int:
    """Hunyuan's own code: `attention_head_dim`, if the config has no `head_dim`."""
    if reader.from_file("head_dim") is None and reader.from_file("attention_head_dim") is not None:
        return named(reader, "attention_head_dim")
    return from_config(reader, rope_type)
