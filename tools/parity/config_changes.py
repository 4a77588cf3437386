"""Random changes of a config.json that bear on positions."""

import inspect
import re
from dataclasses import fields
from random import Random
from typing import Any

from tools.parity.classes import Entry

DEPTHS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13)
"""Numbers of layers."""

LAYER_TYPES = (
    *("full_attention", "sliding_attention", "chunked_attention", "window_attention"),
    *("indexed_attention", "compressed_sparse_attention", "heavily_compressed_attention"),
    *("minimax_m3_sparse", "conv", "moe", "hybrid", "hybrid_sliding", "linear_attention"),
    *("reference_sliding_attention", "attention", "mamba", "recurrent"),
    *("deepseek_sparse_attention", "qwen_sparse_attention"),
)

CYCLE_KEYS = re.compile(r".*(pattern|interval|every_n_layers|group_size|period)$")
LISTS_OF_LAYERS = (
    *("attn_layer_indices", "full_attn_idxs", "rope_scaling_layers"),
    "local_layer_ids",
)
FLAGS = (
    *("use_sliding_window", "force_rope", "use_mem_rope", "rope_interleave", "alibi"),
    *("use_bidirectional_attention", "rotary_value", "use_long_context", "use_rotary_embedding"),
)


def keys_of(entry: Entry) -> frozenset[str]:
    """Return the keys that a class reads: its fields, and those that it takes out of the rest."""
    source = inspect.getsource(inspect.getmodule(entry.config_class))  # type: ignore[arg-type]
    extra = re.findall(r"kwargs\.(?:pop|get)\(\s*\"(\w+)\"", source)
    mapped = entry.config_class.attribute_map
    return frozenset((*(field.name for field in fields(entry.config_class)), *extra, *mapped))


def change(entry: Entry, random: Random) -> dict[str, Any]:
    """Return the contents of a config.json with a few random changes."""
    keys = keys_of(entry)
    config: dict[str, Any] = {}
    total = random.choice(DEPTHS)
    if "num_hidden_layers" in keys:
        config["num_hidden_layers"] = total
    changes = [_width, _window, _cycle, _types, _lists, _flags, _rope, _rope, _outside]
    for make in random.sample(changes, random.randint(1, 4)):
        config |= make(entry, keys, config, total, random)
    for other, name in entry.config_class.attribute_map.items():
        if other in config and name in config:
            del config[other]
    return config


Config = dict[str, Any]


def _width(_: Entry, keys: frozenset[str], __: Config, ___: int, random: Random) -> Config:
    """Return another head width, and number of heads."""
    heads = random.choice((2, 4, 8))
    width = random.choice((16, 32, 48, 64, 80, 96, 128))
    changed: Config = {"num_attention_heads": heads, "hidden_size": heads * width}
    if "num_key_value_heads" in keys:
        changed["num_key_value_heads"] = random.choice((heads, heads // 2))
    if "head_dim" in keys and random.random() < 0.6:
        changed["head_dim"] = random.choice((16, 32, 64, 80, 128))
    if "qk_rope_head_dim" in keys and random.random() < 0.7:
        changed["qk_rope_head_dim"] = random.choice((16, 32, 64))
    if "global_head_dim" in keys and random.random() < 0.5:
        changed["global_head_dim"] = random.choice((32, 64, 256))
    if "rotary_dim" in keys and random.random() < 0.7:
        changed["rotary_dim"] = random.choice((8, 16, 32))
    for key in ("query_pre_attn_scalar", "attention_multiplier"):
        if key in keys and random.random() < 0.5:
            changed[key] = random.choice((64, 0.25)) if key == "attention_multiplier" else 144
    return {key: value for key, value in changed.items() if key in keys}


def _window(_: Entry, keys: frozenset[str], __: Config, total: int, random: Random) -> Config:
    changed: Config = {}
    for key in ("sliding_window", "attention_window_size", "sliding_window_size"):
        if key in keys and random.random() < 0.8:
            changed[key] = random.choice((None, 4, 16, 100))
    if "max_window_layers" in keys:
        changed["max_window_layers"] = random.randint(0, total + 1)
    if "use_sliding_window" in keys:
        changed["use_sliding_window"] = random.random() < 0.7
    if "attention_chunk_size" in keys:
        changed["attention_chunk_size"] = random.choice((4, 64))
    if "local_attention" in keys:
        changed["local_attention"] = random.choice((8, 64, 128))
    return changed


def _cycle(entry: Entry, keys: frozenset[str], __: Config, ___: int, random: Random) -> Config:
    changed: Config = {
        key: random.randint(1, 6) for key in sorted(keys) if CYCLE_KEYS.fullmatch(key)
    }
    if "sliding_window_pattern" in changed and "exaone" in entry.model_type:
        changed["sliding_window_pattern"] = random.choice(("LLLG", "LG", "G", "LLG", 4, 2))
    return changed


def _types(
    entry: Entry, keys: frozenset[str], config: Config, total: int, random: Random
) -> Config:
    """Return a list of layer types, of those that the class names."""
    source = inspect.getsource(inspect.getmodule(entry.config_class))  # type: ignore[arg-type]
    named = [name for name in LAYER_TYPES if f'"{name}"' in source] or ["full_attention"]
    for key in ("layer_types", "layers_block_type"):
        if key in keys:
            return {key: [random.choice(named) for _ in range(total)]}
    return {}


def _lists(_: Entry, keys: frozenset[str], __: Config, total: int, random: Random) -> Config:
    changed: Config = {}
    for key in LISTS_OF_LAYERS:
        if key in keys:
            changed[key] = sorted(random.sample(range(total), random.randint(0, total)))
    if "hybrid_override_pattern" in keys:
        changed["hybrid_override_pattern"] = "".join(random.choices("ME*-", k=total))
    if "linear_attn_config" in keys:
        full = set(random.sample(range(1, total + 1), random.randint(0, total)))
        others = sorted(set(range(1, total + 1)) - full)
        changed["linear_attn_config"] = {"full_attn_layers": sorted(full), "kda_layers": others}
    if "no_rope_layers" in keys:
        length = total if random.random() < 0.7 else random.randint(0, total)
        changed["no_rope_layers"] = [random.randint(0, 1) for _ in range(length)]
    if "layer_rope_theta" in keys:
        changed["layer_rope_theta"] = [random.choice((0, 1e4, 5e5, None)) for _ in range(total)]
    if "compress_ratios" in keys:
        changed["compress_ratios"] = [random.choice((0, 4, 128)) for _ in range(total)]
    if "position_embedding_type" in keys:
        changed["position_embedding_type"] = random.choice(("rope", "nope", None, "rotary"))
    if "attention_windows" in keys:
        changed["attention_windows"] = [random.choice((None, 64)) for _ in range(total)]
    return changed


def _flags(_: Entry, keys: frozenset[str], __: Config, ___: int, random: Random) -> Config:
    return {key: random.random() < 0.5 for key in FLAGS if key in keys}


def _outside(_: Entry, keys: frozenset[str], __: Config, ___: int, random: Random) -> Config:
    """Return keys beside the rope parameters."""
    changed: Config = {}
    if random.random() < 0.7:
        changed["rope_theta"] = random.choice((1e4, 5e5, 12345.0))
    if random.random() < 0.4:
        changed["partial_rotary_factor"] = random.choice((0.25, 0.5, 0.75, 1.0))
    for key in ("rotary_pct", "rotary_emb_base", "global_rope_theta", "local_rope_theta"):
        if key in keys and random.random() < 0.6:
            changed[key] = 0.5 if key == "rotary_pct" else 2e4
    for key in ("rope_local_base_freq", "swa_rope_theta", "compress_rope_theta"):
        if key in keys and random.random() < 0.6:
            changed[key] = random.choice((3e4, 1e5))
    return changed


def _rope(entry: Entry, keys: frozenset[str], config: Config, __: int, random: Random) -> Config:
    """Return rope parameters in one of their spellings."""
    spelling = random.choice(("rope_parameters", "rope_parameters", "rope_scaling"))
    default = _default_parameters(entry)
    nested = [key for key, value in default.items() if isinstance(value, dict)]
    width = _width_of(entry, config)
    if nested and random.random() < 0.7:
        some = nested if random.random() < 0.7 else random.sample(nested, 1)
        return {"rope_parameters": {key: _block(width, "rope_type", random) for key in some}}
    kind = random.choice(("rope_type", "type")) if spelling == "rope_scaling" else "rope_type"
    return {spelling: _block(width, kind, random)}


def _default_parameters(entry: Entry) -> Config:
    try:
        return getattr(entry.config_class(), "rope_parameters", None) or {}
    except Exception:  # a class without a default config
        return {}


def _width_of(entry: Entry, config: Config) -> int:
    """Return the number of rotated channels, for lists of LongRoPE."""
    try:
        made = entry.config_class(**config)
        head_dim = getattr(made, "head_dim", None)
        width = head_dim or made.hidden_size // made.num_attention_heads
        return int(width * (made.rope_parameters or {}).get("partial_rotary_factor", 1.0))
    except Exception:  # the class refuses what was changed before
        return 64


def _block(width: int, kind: str, random: Random) -> Config:
    name = random.choice(("default", "linear", "dynamic", "yarn", "llama3", "longrope", "yarn"))
    block: Config = {kind: name}
    if random.random() < 0.7:
        block["rope_theta"] = random.choice((1e4, 1e6, 77777.0))
    if random.random() < 0.25:
        block["partial_rotary_factor"] = random.choice((0.25, 0.5, 1.0))
    if name in ("linear", "dynamic", "yarn", "llama3"):
        block["factor"] = random.choice((2.0, 4.0, 8.0))
    if name in ("yarn", "llama3", "longrope") and (name == "llama3" or random.random() < 0.7):
        block["original_max_position_embeddings"] = random.choice((256, 1024))
    if name == "llama3":
        block |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    if name == "yarn":
        some = {"beta_fast": 16.0, "beta_slow": 2.0, "mscale": 0.7, "mscale_all_dim": 1.0}
        some |= {"attention_factor": 0.8, "truncate": False}
        block |= {key: some[key] for key in random.sample(sorted(some), random.randint(0, 3))}
    if name == "longrope":
        pairs = max(width // 2, 1)
        block["short_factor"] = [1.0 + 0.1 * i for i in range(pairs)]
        block["long_factor"] = [2.0 + 0.1 * i for i in range(pairs)]
    return block
