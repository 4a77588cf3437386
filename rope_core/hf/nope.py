"""Which layers do not rotate ("NoPE"). The rules are named in the rows of `families.json`.

A rule takes the reader, the index of a layer and its type, and returns why the layer does not
rotate, or None if it does. Without an index, a rule that needs one says that the layer rotates.
"""

from collections.abc import Mapping
from typing import Any

from rope_core.errors import ConfigError, brief
from rope_core.hf.config_reader import DICTIONARIES, ConfigReader
from rope_core.hf.family import FULL

NO_ATTENTION = ("linear_attention", "conv", "recurrent", "moe", "mlp")
"""Types of layers without queries and keys."""

LIGHTNING = "lightning_attention"
"""Layers whose queries and keys rotate, and are multiplied without a softmax."""

ALIBI, LEARNED, RELATIVE = "ALiBi", "learned absolute", "relative"
STATE_SPACE, NONE = "state space", "none"
"""Position encodings of models without rotary embedding."""

_SLOPES = (
    "2 ** (-8 * (h + 1) / H) of head h if H is a power of two; else those of N heads, the power of "
    "two below H, and then the first, third, fifth, ... of 2 * N heads"
)

BIASES = {
    ALIBI: "ALiBi biases are not added to the scores. Send them as mask, [1, H, 1, Sk]: slope of "
    "the head * position of the key. The slope of head h is 2 ** (-8 * (h + 1) / H) if H is a "
    "power of two; else the slopes are those of N heads, the power of two below H, and then the "
    "first, third, fifth, ... of 2 * N heads",
    RELATIVE: "terms of relative positions depend on the contents of queries or keys, and are not "
    "added to the scores. Compute them with the model's weights, and send them as mask, "
    "[B, H, S, Sk]",
    STATE_SPACE: "layers of this model have no attention, but a state",
}
"""Warnings about what such a model adds to scores, by kind."""

RELATIVE_BIASES = (
    "biases of relative positions are weights of the model, and are not added to the scores. Send "
    "them as mask, [B, H, S, Sk]"
)
"""Relative positions whose biases depend on positions only, such as T5's."""

BIASES_OF_BOTH_SIDES = (
    "ALiBi biases are not added to the scores. Send them as mask, [1, H, Sq, Sk]: -slope of the "
    f"head * distance of query and key, with the slopes of other models: {_SLOPES}"
)
"""ALiBi of a model that is not causal."""

BIASES_OF_ROOT = (
    "ALiBi biases are not added to the scores. Send them as mask, [1, H, Sq, Sk]: -slope of the "
    f"head * sqrt(distance of query and key), with the slopes of other models: {_SLOPES}"
)
"""Step-1's ALiBi."""


def without_rope(reader: ConfigReader, kind: str, why: str = "") -> str:
    """Return why a model without rotary embedding does not rotate; warn of what it adds to scores.

    Args:
        reader: the config.
        kind: its position encoding, such as `ALIBI`.
        why: the value in the config that decides this; "" if the model never rotates.
    """
    if text := _biases(reader, kind):
        reader.warn(text)
    return f"no rotary embedding: {kind}" + (f" ({why})" if why else "")


def _biases(reader: ConfigReader, kind: str) -> str | None:
    """Return the warning about what such a model adds to scores, None if it adds nothing."""
    family = reader.family
    if kind == ALIBI and family.alibi_of_root:
        return BIASES_OF_ROOT
    if kind == ALIBI and not family.causal:
        return BIASES_OF_BOTH_SIDES
    if kind == RELATIVE and family.relative_bias:
        return RELATIVE_BIASES
    return BIASES.get(kind)


def nope_reason(reader: ConfigReader, layer: int | None, layer_type: str | None) -> str | None:
    """Return why a layer does not rotate, None if it does."""
    kind = reader.family.no_rope
    if layer_type in NO_ATTENTION and kind != STATE_SPACE:
        return f"{layer_type} has no queries and keys"
    if kind and not reader.family.nope:
        return without_rope(reader, kind)
    if layer_type is not None and _is_null(reader, layer_type):
        return f"rope parameters of {layer_type} are null"
    rule = reader.family.nope
    why: str | None = rule(reader, layer, layer_type) if rule else None
    return why


def has_attention(reader: ConfigReader, layer_type: str | None) -> bool:
    """Return whether layers of a type have a softmax attention."""
    return layer_type not in (*NO_ATTENTION, LIGHTNING) and reader.family.no_rope != STATE_SPACE


def _is_null(reader: ConfigReader, layer_type: str) -> bool:
    """Return whether the file, or else the class, has null as the rope parameters of a type."""
    label = reader.family.parameters_label(layer_type)
    for key in DICTIONARIES:
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
    if flags := reader.from_file("no_rope_layers"):
        total = reader.num_layers()
        if total is not None and isinstance(flags, list) and len(flags) < total:
            expected = f"a list of {total} numbers, one for each layer"
            raise ConfigError(reader.key_name("no_rope_layers"), expected, brief(flags))
        flag = reader.of_layer("no_rope_layers", "numbers", layer)
        return None if flag else f"no_rope_layers[{layer}] is 0"
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
    if value == "rope":
        return None
    return without_rope(reader, NONE, f"position_embedding_type is {brief(value)}, not rope")


def alibi(reader: ConfigReader, _: int | None, __: str | None) -> str | None:
    """Falcon: all layers, if `alibi` is true."""
    if not reader.get("alibi"):
        return None
    reader.warn("Falcon multiplies ALiBi biases by the softmax scale, head_dim ** -0.5")
    return without_rope(reader, ALIBI, "alibi is true")


def not_rotary(reader: ConfigReader, _: int | None, __: str | None) -> str | None:
    """ESM, SaProt: all layers, unless `position_embedding_type` is "rotary"."""
    value = _switch(reader, "position_embedding_type")
    if value == "rotary":
        return None
    kind = LEARNED if value == "absolute" else NONE
    return without_rope(reader, kind, f"position_embedding_type is {brief(value)}")


def position_embeddings_type(reader: ConfigReader, _: int | None, __: str | None) -> str | None:
    """Speech conformers: all layers, unless `position_embeddings_type` is "rotary"."""
    value = _switch(reader, "position_embeddings_type")
    if value == "rotary":
        return None
    kind = RELATIVE if value in ("relative", "relative_key") else NONE
    return without_rope(reader, kind, f"position_embeddings_type is {brief(value)}")


def use_rotary_embedding(reader: ConfigReader, _: int | None, __: str | None) -> str | None:
    """CLVP's encoders: all layers, if `use_rotary_embedding` is false."""
    value = _switch(reader, "use_rotary_embedding")
    if value:
        return None
    return without_rope(reader, NONE, f"use_rotary_embedding is {brief(value)}")


def _switch(reader: ConfigReader, key: str) -> Any:
    """Return the value of a key, which null switches off."""
    return None if reader.is_null(key) else reader.get(key)


def mla_use_nope(reader: ConfigReader, _: int | None, __: str | None) -> str:
    """Kimi-Linear, GLM-5-Next: all layers; transformers does not read `mla_use_nope`."""
    if reader.from_file("mla_use_nope") is False:
        reader.warn("mla_use_nope is false, but the class does not read it: no layer rotates")
    return without_rope(reader, NONE)


def relative_attention(reader: ConfigReader, _: int | None, __: str | None) -> str:
    """DeBERTa, SEW-D: biases of relative positions only if `relative_attention` is true."""
    is_relative = reader.get("relative_attention")
    return without_rope(reader, RELATIVE if is_relative else LEARNED)


def sine_or_learned(reader: ConfigReader, _: int | None, __: str | None) -> str:
    """DETR and models like it: `position_embedding_type` is "sine" or "learned"."""
    is_learned = reader.get("position_embedding_type") == "learned"
    return without_rope(reader, "learned absolute" if is_learned else "sinusoidal")


def use_mem_rope(reader: ConfigReader, _: int | None, __: str | None) -> str | None:
    """Zamba-2: all layers, unless `use_mem_rope` is true."""
    return (
        None if reader.get("use_mem_rope") else without_rope(reader, NONE, "use_mem_rope is false")
    )


def no_rotated_share(reader: ConfigReader, _: int | None, __: str | None) -> str | None:
    """GPT-NeoX, GLM, Phi and others: no layer rotates if `partial_rotary_factor` is 0."""
    key = "partial_rotary_factor"
    blocks = [reader.config.get(name) for name in DICTIONARIES]
    inside = next(
        (b[key] for b in blocks if isinstance(b, Mapping) and b.get(key) is not None), None
    )
    share = reader.get(key) if inside is None else inside
    if type(share) not in (int, float) or share != 0:
        return None
    return without_rope(reader, NONE, f"{reader.key_name(key)} is 0")


def use_rotary_pos_emb(reader: ConfigReader, _: int | None, __: str | None) -> str | None:
    """Hunyuan's own code: no layer rotates if `use_rotary_pos_emb` is false."""
    if reader.from_file("use_rotary_pos_emb") is not False:
        return None
    return without_rope(reader, NONE, "use_rotary_pos_emb is false")
