"""How many heads a model has, and how wide they are: what a cache of its keys and values stores."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from rope_core.errors import ConfigError
from rope_core.hf import find_family
from rope_core.hf.config_reader import ConfigReader, is_int


class Heads(NamedTuple):
    """The heads of a layer; None where the config does not say it."""

    num_heads: int | None
    num_kv_heads: int | None
    head_dim: int | None
    """Width of q and k, with the part that does not rotate."""
    value_dim: int | None


def read_heads(
    config: Mapping[str, Any],
    *,
    model_type: str | None = None,
    part: str | None = None,
    layer: int | None = None,
    compat: str = "5.23",
) -> Heads:
    """Return the heads of a layer of a model.

    Latent attention (DeepSeek-V2 and V3) has as many heads of keys as of queries: k and v are those
    after the up-projection.

    Args:
        config: contents of a config.json.
        model_type: the family, instead of the file's.
        part: of a composite model; text by default.
        layer: index of the layer, if layers differ.
        compat: version of transformers to follow.
    """
    family, inner, _, _ = find_family.find(config, model_type, part, None)
    reader = ConfigReader(inner, family, compat, layer)
    num_heads = _size(reader, layer, "num_attention_heads")
    nope, rotated = reader.get("qk_nope_head_dim"), reader.get("qk_rope_head_dim")
    if is_int(nope) and is_int(rotated):
        return Heads(num_heads, num_heads, nope + rotated, _size(reader, layer, "v_head_dim"))
    num_kv_heads = _size(reader, layer, "num_key_value_heads", "num_kv_heads", "n_head_kv")
    if reader.from_file("multi_query") is True and not reader.from_file("new_decoder_architecture"):
        num_kv_heads = _size(reader, layer, "multi_query_group_num") or 1
    head_dim = _size(reader, layer, "head_dim", "kv_channels")
    hidden = _size(reader, layer, "hidden_size")
    if head_dim is None and hidden and num_heads and hidden % num_heads == 0:
        head_dim = hidden // num_heads
    return Heads(num_heads, num_kv_heads or num_heads, head_dim, head_dim)


def _size(reader: ConfigReader, layer: int | None, *keys: str) -> int | None:
    """Return the first size that the config or its class has, None if there is none.

    A list has a size for each layer.
    """
    for key in keys:
        value = reader.get(key)
        if isinstance(value, list) and layer is not None and layer < len(value):
            value = value[layer]
        if value is None:
            continue
        if not is_int(value) or value < 1:
            raise ConfigError(reader.key_name(key), "a whole number above 0", value)
        return int(value)
    return None
