"""The width of a head, as each class finds it."""

from collections.abc import Mapping

from rope_core.errors import ConfigError
from rope_core.hf.config_reader import CLASS_DEFAULT, DERIVED, Reader

LATENT = "qk_rope_head_dim"
"""Width of the part of a head that rotates, where keys are latent (MLA)."""


def head_dim(reader: Reader, kind: str) -> int:
    """Return the width of a head, of its rotated part for MLA."""
    rule = reader.family.head_dim
    if rule == LATENT:
        return _latent(reader)
    if isinstance(rule, Mapping):
        return reader.size(rule.get(reader.layer_type or "", "head_dim"))
    if rule == "hidden_size":
        return reader.size("hidden_size")
    if rule == "memory_attention":
        width = reader.size("memory_attention_hidden_size", 256)
        rate = reader.size("memory_attention_downsample_rate", 1)
        return width // (rate * reader.size("memory_attention_num_attention_heads", 1))
    unset = reader.family.null_head_dim and reader.given("head_dim") is None
    if reader.is_null("head_dim") or unset:
        if kind in ("yarn", "dynamic", "longrope"):
            reader.warn(f"head_dim is null: transformers fails on it with {kind}; derived here")
    elif reader.get("head_dim") is not None:
        return reader.size("head_dim")
    return derived(reader) * (2 if rule == "twice" else 1)


def _latent(reader: Reader) -> int:
    width = reader.size(LATENT)
    reader.provenance["head_dim"] = reader.provenance.get(LATENT, CLASS_DEFAULT)
    other = reader.given("head_dim")
    if other is not None and other != width:
        reader.warn(f"head_dim is not read: what rotates is {LATENT} wide, {width}")
    return width


def derived(reader: Reader) -> int:
    """Return the width of the heads that share hidden_size.

    Raises:
        ConfigError: they do not divide it.
    """
    hidden, heads = reader.size("hidden_size"), reader.size("num_attention_heads")
    if hidden % heads:
        expected = f"given, for hidden_size {hidden} is no multiple of {heads} heads"
        raise ConfigError(reader.name("head_dim"), expected, "none")
    reader.provenance["head_dim"] = DERIVED
    return hidden // heads
