"""Which layers do not rotate ("NoPE"). The rules are named in the rows of `families.json`.

A rule takes the reader, the index of a layer and its type, and returns why the layer does not
rotate, or None if it does. Without an index, a rule that needs one says that the layer rotates.
"""

from collections.abc import Mapping

from rope_core.errors import ConfigError, brief
from rope_core.hf.config_reader import ConfigReader
from rope_core.hf.family import FULL

NO_ATTENTION = ("linear_attention", "conv", "recurrent")
"""Types of layers without queries and keys."""


def nope_reason(reader: ConfigReader, layer: int | None, layer_type: str | None) -> str | None:
    """Return why a layer does not rotate, None if it does."""
    if layer_type in NO_ATTENTION:
        return f"{layer_type} has no queries and keys"
    if layer_type is not None and _is_null(reader, layer_type):
        return f"rope parameters of {layer_type} are null"
    rule = reader.family.nope
    why: str | None = rule(reader, layer, layer_type) if rule else None
    return why


def _is_null(reader: ConfigReader, layer_type: str) -> bool:
    """Return whether the file, or else the class, has null as the rope parameters of a type."""
    label = reader.family.parameters_label(layer_type)
    for key in ("rope_scaling", "rope_parameters"):
        block = reader.config.get(key)
        if isinstance(block, Mapping) and label in block:
            return block[label] is None
    rule = reader.family.rope_parameters_by_type.get(label)
    return rule is not None and rule["default"] is None


def no_rope_layers(reader: ConfigReader, layer: int | None, _: str | None = None) -> str | None:
    """Llama 4, SmolLM3, Mistral-Large-4: a list of flags, of which 1 says that a layer rotates.

    Without a list, every layer whose number is a multiple of `no_rope_layer_interval` does not.
    """
    if layer is None:
        return None
    flags = reader.from_file("no_rope_layers")
    if flags:
        if not isinstance(flags, list) or layer >= len(flags):
            expected = f"a list of more than {layer} numbers, one for each layer"
            raise ConfigError("no_rope_layers", expected, brief(flags))
        return None if flags[layer] else f"no_rope_layers[{layer}] is 0"
    interval = reader.size("no_rope_layer_interval")
    return f"every {interval}th layer does not rotate" if (layer + 1) % interval == 0 else None


def full_attention(reader: ConfigReader, _: int | None, layer_type: str | None) -> str | None:
    """AFMoE, Cohere-2, Flint: layers with full attention, unless `force_rope` is true."""
    if layer_type != FULL or reader.from_file("force_rope"):
        return None
    return "full-attention layers of this family do not rotate"


def full_attention_beside_sliding(
    reader: ConfigReader, _: int | None, layer_type: str | None
) -> str | None:
    """EXAONE-4, EXAONE-MoE, Kolibri: layers with full attention, if others have a window."""
    if layer_type != FULL or reader.is_null("sliding_window"):
        return None
    return "full-attention layers do not rotate if others have a sliding window"


def layer_rope_theta(reader: ConfigReader, layer: int | None, _: str | None) -> str | None:
    """Granite-SWA: layers whose base in `layer_rope_theta` is 0 or null."""
    return _by_base(reader, layer)


def layer_rope_theta_or_every_4th(
    reader: ConfigReader, layer: int | None, _: str | None
) -> str | None:
    """Muse: `layer_rope_theta`, and without that list every 4th layer, counted from the last."""
    return _by_base(reader, layer, interval=4)


def _by_base(reader: ConfigReader, layer: int | None, interval: int = 0) -> str | None:
    if layer is None:
        return None
    bases = reader.per_layer("layer_rope_theta")
    if bases is not None and layer < len(bases):
        return None if bases[layer] else f"layer_rope_theta[{layer}] is {bases[layer]}"
    from_last = (reader.num_layers() or 0) - 1 - layer
    if not interval or from_last % interval:
        return None
    return f"every {interval}th layer, counted from the last, does not rotate"


BY_LAYER_ROPE_THETA = (layer_rope_theta, layer_rope_theta_or_every_4th)
"""The rules of families whose layers each have a base."""


def cross_attention_layers(reader: ConfigReader, layer: int | None, _: str | None) -> str | None:
    """Mllama: layers of `cross_attention_layers` see the image, without rotation."""
    listed = reader.integers("cross_attention_layers")
    listed = reader.family.defaults["cross_attention_layers"] if listed is None else listed
    return f"layer {layer} is one of cross_attention_layers" if layer in listed else None


def position_embedding_type(reader: ConfigReader, _: int | None, __: str | None) -> str | None:
    """Granite-MoE-Hybrid: all layers, unless `position_embedding_type` is "rope"."""
    value = reader.get("position_embedding_type")
    return None if value == "rope" else f"position_embedding_type is {brief(value)}, not rope"


def no_op_attention(reader: ConfigReader, layer: int | None, _: str | None) -> str | None:
    """Nemotron-NAS: blocks in whose `block_configs` attention is left out, or linear."""
    blocks = reader.from_file("block_configs")
    if layer is None or blocks is None:
        return None
    if not isinstance(blocks, list) or layer >= len(blocks):
        expected = f"a list of more than {layer} objects, one for each layer"
        raise ConfigError("block_configs", expected, brief(blocks))
    block = blocks[layer]
    attention = block.get("attention") if isinstance(block, Mapping) else None
    for switch in ("no_op", "replace_with_linear"):
        if isinstance(attention, Mapping) and attention.get(switch):
            return f"block_configs[{layer}].attention.{switch} is true"
    return None


def use_rotary_embedding(reader: ConfigReader, _: int | None, __: str | None) -> str | None:
    """CLVP: all layers, if `use_rotary_embedding` is false."""
    return None if reader.get("use_rotary_embedding") else "use_rotary_embedding is false"


def use_mem_rope(reader: ConfigReader, _: int | None, __: str | None) -> str | None:
    """Zamba-2: all layers, unless `use_mem_rope` is true."""
    return None if reader.get("use_mem_rope") else "use_mem_rope is false"
