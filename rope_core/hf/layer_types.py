"""The layers of a model by type, and the type of the layer to resolve.

The rules are named in the rows of `families.json`. A rule takes the reader and the number of
layers, and returns the type of each.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rope_core.errors import ConfigError, brief
from rope_core.hf.config_reader import GIVEN, MAX_LAYERS, PER_LAYER, ConfigReader, is_int
from rope_core.hf.family import FULL, SLIDING
from rope_core.hf.nope import no_rope_layers, nope_reason

OLD_NAMES = {
    "attention": FULL,
    "mamba": "linear_attention",
    "deepseek_sparse_attention": "indexed_attention",
    "qwen_sparse_attention": "indexed_attention",
}
"""Layer types that transformers has renamed."""


def layer_types(reader: ConfigReader) -> list[str] | None:
    """Return the type of each layer: the file's, else the class's. None if neither has any."""
    value = reader.from_file("layer_types")
    types = _of_class(reader) if value is None else _of_file(reader, value)
    if types is None:
        return None
    renamed: list[str] = reader.family.step("layer_types", lambda _, types: types)(reader, types)
    return renamed


def _of_class(reader: ConfigReader) -> list[str] | None:
    family = reader.family
    if not family.layer_types and not family.layer_cycle:
        return None
    total = reader.num_layers()
    if total is None:
        return None
    types: list[str] = (family.layer_types or _cycle)(reader, total)
    types[0] = family.first_layer or types[0]
    types[-1] = family.last_layer or types[-1]
    return types


def _of_file(reader: ConfigReader, types: object) -> list[str]:
    name = reader.key_name("layer_types")
    if not isinstance(types, list) or not types or not all(isinstance(t, str) for t in types):
        raise ConfigError(name, "a list of texts", brief(types))
    if len(types) > MAX_LAYERS:
        raise ConfigError(name, f"at most {MAX_LAYERS}", len(types))
    reader.record("layer_types", GIVEN, name)
    total = reader.from_file("num_hidden_layers")
    if isinstance(total, int) and total != len(types):
        reader.warn(f"layer_types has {len(types)} layers, num_hidden_layers is {total}")
    return [OLD_NAMES.get(layer_type, layer_type) for layer_type in map(str, types)]


def _cycle(reader: ConfigReader, total: int) -> list[str]:
    """Return the family's cycle, in the length that the file gives it."""
    cycle, key = list(reader.family.layer_cycle), reader.family.cycle_length_key or ""
    length = reader.from_file(key) if key else None
    if isinstance(length, str):  # EXAONE's "LLLG": local and global
        if not length or set(length) - set("LG"):
            raise ConfigError(key, "a text of L and G, or a whole number", brief(length))
        cycle = [SLIDING if letter == "L" else FULL for letter in length]
    elif length is not None:
        others = min(reader.size(key), MAX_LAYERS) - 1
        if cycle[0] == FULL:
            cycle = [FULL] + [SLIDING] * others
        else:
            cycle = [cycle[0]] * others + [cycle[-1]]
    return [cycle[layer % len(cycle)] for layer in range(total)]


def cycle_from_last(reader: ConfigReader, total: int) -> list[str]:
    """Muse: the last layer ends a cycle."""
    cycle = reader.family.layer_cycle
    return [cycle[(layer - total) % len(cycle)] for layer in range(total)]


def has_window(reader: ConfigReader) -> bool:
    """Return whether the config has a sliding window and does not switch it off."""
    off = reader.get("use_sliding_window") is False or reader.is_null("sliding_window")
    return not off and reader.get("sliding_window") is not None


def cycle_or_last_full_attention(reader: ConfigReader, total: int) -> list[str]:
    """OLMo-Hybrid: the last layer has full attention, if the cycle gives it to none."""
    types = _cycle(reader, total)
    return types if FULL in types else [*types[:-1], FULL]


def attention_types(reader: ConfigReader, total: int) -> list[str]:
    """GPT-Neo: pairs of a list of kinds, "global" or "local", and how often it is repeated."""
    value = reader.from_file("attention_types")
    pairs = value if isinstance(value, list) else [value]
    pairs = [[["global", "local"], 12]] if value is None else pairs
    names, types = {"global": FULL, "local": SLIDING}, list[str]()
    for pair in pairs:
        kinds, times = pair if isinstance(pair, list) and len(pair) == 2 else (None, None)
        if (
            not isinstance(kinds, list)
            or type(times) is not int
            or not {*map(str, kinds)} <= {*names}
        ):
            expected = 'pairs of a list of "global" and "local", and a whole number'
            raise ConfigError("attention_types", expected, brief(value))
        kinds = [names[kind] for kind in kinds[:total]]
        types += kinds * min(times, total // max(len(kinds), 1) + 1)
        del types[total:]
    if len(types) < total:
        raise ConfigError("attention_types", f"of {total} layers", len(types))
    return types


def max_window_layers(reader: ConfigReader, total: int) -> list[str]:
    """Qwen-2, Dots-1: windows from layer `max_window_layers` on."""
    first = reader.number("max_window_layers") if has_window(reader) else total
    return _sliding_where(total, lambda layer: layer >= first)


def even_layers_below_max_window_layers(reader: ConfigReader, total: int) -> list[str]:
    """Qwen-2-MoE: windows in layers 0, 2, 4, ... below `max_window_layers`."""
    end = reader.number("max_window_layers") if reader.get("use_sliding_window") else 0
    return _sliding_where(total, lambda layer: layer % 2 == 0 and layer < end)


def all_sliding(reader: ConfigReader, total: int) -> list[str]:
    """Ministral: windows in all layers."""
    windowed = has_window(reader)
    return _sliding_where(total, lambda _: windowed)


def reference_sliding(reader: ConfigReader, total: int) -> list[str]:
    """Unlimited-OCR: windows in all layers, beside keys that every query sees."""
    return ["reference_sliding_attention" if has_window(reader) else FULL] * total


def attention_windows(reader: ConfigReader, total: int) -> list[str]:
    """UltraBERT: `attention_windows`, the window of each layer or null."""
    windows = reader.from_file("attention_windows")
    if windows is None:
        return _cycle(reader, total)
    if not isinstance(windows, list) or not windows:
        raise ConfigError("attention_windows", "a list with a window or null", brief(windows))
    return [SLIDING if window else FULL for window in windows]


def dense_layers_first(reader: ConfigReader, total: int) -> list[str]:
    """Cohere-2-MoE: the `first_k_dense_replace` layers have a cycle of their own."""
    dense = min(reader.number("first_k_dense_replace", 0), total)
    length = reader.size("prefix_dense_sliding_window_pattern")
    first = _sliding_where(dense, lambda layer: (layer + 1) % length != 0)
    return first + _cycle(reader, total - dense)


def sliding_or_indexed(reader: ConfigReader, total: int) -> list[str]:
    """Dots-3-Note: windows in three of four layers from layer 2 on."""
    windowed = bool(reader.get("use_sliding_window"))
    return [
        SLIDING if windowed and layer >= 2 and layer % 4 != 1 else "indexed_attention"
        for layer in range(total)
    ]


def sliding_without_rope(reader: ConfigReader, total: int) -> list[str]:
    """SmolLM3: windows in the layers that do not rotate."""
    windowed = has_window(reader)
    return _sliding_where(total, lambda layer: windowed and bool(no_rope_layers(reader, layer)))


def _sliding_where(total: int, is_sliding: Callable[[int], bool]) -> list[str]:
    return [SLIDING if is_sliding(layer) else FULL for layer in range(total)]


def chunked_with_rope(reader: ConfigReader, total: int) -> list[str]:
    """Llama 4: chunks in the layers that rotate."""
    reasons = [no_rope_layers(reader, layer) for layer in range(total)]
    return [FULL if reason else "chunked_attention" for reason in reasons]


def attn_layer_indices(reader: ConfigReader, total: int) -> list[str]:
    """Bamba: `attn_layer_indices` lists the layers with attention."""
    listed = set(reader.integers("attn_layer_indices") or ())
    return [FULL if layer in listed else "linear_attention" for layer in range(total)]


def full_attn_idxs(reader: ConfigReader, total: int) -> list[str]:
    """LFM2: `full_attn_idxs` lists the layers with attention, the others are convolutions."""
    listed = reader.integers("full_attn_idxs")
    full = set(range(total) if listed is None else listed)
    return [FULL if layer in full else "conv" for layer in range(total)]


def sparse_attention_freq(reader: ConfigReader, total: int) -> list[str]:
    """MiniMax-M3: flags in `sparse_attention_config`, of which 1 says that a layer is sparse."""
    key = "sparse_attention_freq"
    sparse = reader.from_file("sparse_attention_config")
    flags = sparse.get(key) if isinstance(sparse, Mapping) else None
    if flags is None:
        return [FULL] * total
    if not isinstance(flags, list) or not flags:
        raise ConfigError(f"sparse_attention_config.{key}", "a list of flags", brief(flags))
    return ["minimax_m3_sparse" if flag else FULL for flag in flags]


def zamba2(_: ConfigReader, __: int) -> list[str]:
    """Zamba-2: the layers of the 2.7B model, whatever their number."""
    gaps = [6, 5, 5, 5, 5, 5, 5, 4, 3]
    types = [t for gap in gaps for t in [*["linear_attention"] * gap, "hybrid"]]
    return [*types, *["linear_attention"] * 2]


COMPRESSED = {0: SLIDING, 4: "compressed_sparse_attention", 128: "heavily_compressed_attention"}


def compress_ratios(reader: ConfigReader, total: int) -> list[str]:
    """DeepSeek-V4: `compress_ratios`, the factor by which keys are compressed.

    Without that list: two layers with 128, then layers with 128 and 4 in turns.
    """
    ratios = reader.from_file("compress_ratios")
    if ratios is None:
        ratios = [128 if layer < 2 or layer % 2 == 0 else 4 for layer in range(total)]
    if not isinstance(ratios, list) or not all(is_int(x) and x in COMPRESSED for x in ratios):
        raise ConfigError("compress_ratios", f"a list of {[*COMPRESSED]}", brief(ratios))
    if len(ratios) < total:
        raise ConfigError("compress_ratios", f"a list of {total} numbers", f"{len(ratios)}")
    return [COMPRESSED[ratio] for ratio in ratios[:total]]


@dataclass(frozen=True, slots=True)
class Layers:
    """The layers of one type that all rotate, or that all do not."""

    layer_type: str | None
    layers: tuple[int, ...]
    """Their indices."""

    nope: str | None
    """Why the first of them does not rotate; None if they rotate."""


def all_layers(reader: ConfigReader) -> tuple[Layers, ...]:
    """Return every layer of the model, by type and by whether it rotates; () if unknown."""
    types = layer_types(reader)
    total = len(types) if types else reader.num_layers()
    groups: dict[tuple[str | None, bool], tuple[str | None, list[int]]] = {}
    for layer in range(total or 0):
        layer_type = types[layer] if types else None
        why = nope_reason(reader, layer, layer_type)
        groups.setdefault((layer_type, why is None), (why, []))[1].append(layer)
    return tuple(Layers(key[0], tuple(layers), why) for key, (why, layers) in groups.items())


_INDEX = re.compile(r"[0-9]{1,5}")


def layer_values(reader: ConfigReader) -> Mapping[str, Any]:
    """Return the keys that have a value of their own in the reader's layer: `per_layer_config`.

    Without a layer, those of the first layer of its type.
    """
    values = reader.from_file(PER_LAYER)
    if values is None:
        values = reader.family.step("per_layer_config", lambda _: {})(reader)
    if not isinstance(values, Mapping) or not all(
        _INDEX.fullmatch(str(key)) and isinstance(value, Mapping) for key, value in values.items()
    ):
        expected = "an object with an object for each layer, by its index"
        raise ConfigError(PER_LAYER, expected, brief(values))
    layer, types = reader.layer, layer_types(reader) if values else None
    if layer is None and types and reader.layer_type in types:
        layer = types.index(reader.layer_type)
    by_layer: dict[int, Mapping[str, Any]] = {int(key): x for key, x in values.items()}  # or "05"
    return {} if layer is None else by_layer.get(layer, {})


def resolve_layer_type(reader: ConfigReader, name: str | None) -> str | None:
    """Return the type of the reader's layer; without a layer, `name`, which can be None.

    Raises:
        ConfigError: the index is outside of the model, the layer is not of the type `name`, or
            the model has no such type.
    """
    layer = reader.layer
    if layer is None and name is None:
        return None
    types = layer_types(reader)
    if layer is None:
        if name not in (names := _all_types(reader, types)):
            raise ConfigError("layer_type", f"one of {sorted(names)}", brief(name))
        return name
    total = len(types) if types else reader.num_layers()
    if layer < 0 or (total is not None and layer >= total):
        expected = "0 or more" if total is None else f"in [0, {total - 1}]"
        raise ConfigError("layer", expected, layer)
    if types is None:
        return name
    if name is not None and name != types[layer]:
        raise ConfigError("layer_type", f"{types[layer]!r}, as layer {layer} is", brief(name))
    return types[layer]


def _all_types(reader: ConfigReader, types: list[str] | None) -> set[str]:
    """Return the layer types that this model, or its family, can have."""
    family = reader.family
    names = {*family.rope_parameters_by_type, *family.layer_cycle, *(types or ())}
    names |= {name for name in (family.first_layer, family.last_layer) if name}
    return names or {FULL, SLIDING}
