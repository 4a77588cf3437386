"""The layer types of models that have attention beside other layers, and no rotary embedding.

The rules are like those in layer_types.py. `tools/no_rope_overrides.py` names them for the rows of
`no_rope.json`.
"""

from collections.abc import Mapping

from rope_core.errors import ConfigError, brief
from rope_core.hf.config_reader import MAX_LAYERS, ConfigReader, is_int
from rope_core.hf.family import FULL

LINEAR = "linear_attention"


def attn_layer_period(reader: ConfigReader, total: int) -> list[str]:
    """Jamba: attention in one layer of `attn_layer_period`, that of `attn_layer_offset`."""
    return [FULL if flag else LINEAR for flag in _periodic(reader, total)]


def attn_layer_period_after_3(reader: ConfigReader, total: int) -> list[str]:
    """Zamba: three layers, the last of them with attention, and then as Jamba."""
    flags = [False, False, True, *_periodic(reader, total - 3)]
    return ["hybrid" if flag else LINEAR for flag in flags]


def _periodic(reader: ConfigReader, total: int) -> list[bool]:
    period, offset = reader.size("attn_layer_period"), reader.number("attn_layer_offset")
    return [layer % period == offset for layer in range(total)]


BLOCKS = {"M": LINEAR, "E": "moe", "*": FULL, "-": "mlp"}
"""Letters of Nemotron-H's pattern."""


def hybrid_override_pattern(reader: ConfigReader, _: int) -> list[str]:
    """Nemotron-H: `hybrid_override_pattern` has a letter for each layer, whatever their number."""
    pattern = reader.from_file("hybrid_override_pattern")
    if pattern is None:
        return [LINEAR, "moe", FULL, "mlp"]
    is_text = isinstance(pattern, str) and 0 < len(pattern) <= MAX_LAYERS
    if not is_text or set(pattern) - BLOCKS.keys():
        expected = f"a text of {' '.join(BLOCKS)}, a letter for each layer"
        raise ConfigError("hybrid_override_pattern", expected, brief(pattern))
    return [BLOCKS[letter] for letter in pattern]


def kda_layers(reader: ConfigReader, total: int) -> list[str]:
    """Kimi-Linear: `full_attn_layers` and `kda_layers` number the layers, from 1 on.

    Without these lists, layers 4, 8, 12, ... have attention, counted from 0.
    """
    key = "linear_attn_config"
    nested = reader.from_file(key)
    lists = nested if isinstance(nested, Mapping) else {}
    if not {"full_attn_layers", "kda_layers"} <= lists.keys():
        return [FULL if layer and layer % 4 == 0 else LINEAR for layer in range(total)]
    types = dict[int, str]()
    for name, layer_type in (("full_attn_layers", FULL), ("kda_layers", LINEAR)):
        numbers = lists[name]
        if not isinstance(numbers, list) or not all(is_int(n) and 0 < n <= total for n in numbers):
            expected = f"a list of whole numbers from 1 to {total}"
            raise ConfigError(f"{key}.{name}", expected, brief(numbers))
        types |= dict.fromkeys(numbers, layer_type)
    missing = [number for number in range(1, total + 1) if number not in types]
    if missing:
        raise ConfigError(key, "full_attn_layers or kda_layers with each layer", f"no {missing[0]}")
    return [types[number] for number in range(1, total + 1)]


def local_layer_ids(reader: ConfigReader, total: int) -> list[str]:
    """Inkling: `local_layer_ids` lists the layers with a window; by default 5 of 6 layers."""
    listed = reader.integers("local_layer_ids")
    local = [layer for layer in range(total) if (layer + 1) % 6] if listed is None else listed
    return ["hybrid_sliding" if layer in local else "hybrid" for layer in range(total)]
