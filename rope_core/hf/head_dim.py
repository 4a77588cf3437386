"""The width of a head. The rules are named in the rows of `families.json`.

A rule takes the reader and the variant's name, and returns the width; for MLA, that of the part
of a head that rotates.
"""

from rope_core.errors import ConfigError
from rope_core.hf.config_reader import CLASS_DEFAULT, DERIVED, PER_LAYER, ConfigReader
from rope_core.hf.family import FULL


def from_config(reader: ConfigReader, variant: str) -> int:
    """Most families: `head_dim` of the file or class, else hidden_size / num_attention_heads."""
    null_in_class = reader.family.defaults.get("head_dim", 0) is None
    if reader.is_null("head_dim") or (null_in_class and reader.from_file("head_dim") is None):
        if variant in ("yarn", "dynamic", "longrope"):
            reader.warn(f"head_dim is null: transformers fails on it with {variant}; derived here")
    elif reader.get("head_dim") is not None:
        return reader.size("head_dim")
    return derived(reader)


def twice_derived(reader: ConfigReader, variant: str) -> int:
    """Zamba-2: heads without a `head_dim` are twice as wide: two inputs are concatenated."""
    width = from_config(reader, variant)
    if reader.provenance["head_dim"] != DERIVED:
        return width
    reader.record("head_dim", DERIVED, f"2 * {reader.why['head_dim']}")
    return 2 * width


def latent(reader: ConfigReader, _: str) -> int:
    """DeepSeek V2 and V3 and other MLA families: `qk_rope_head_dim`."""
    key = "qk_rope_head_dim"
    width = named(reader, key)
    other = reader.from_file("head_dim")
    if other is not None and other != width:
        reader.ignore("head_dim", f"the rotated part is {key} = {width} wide")
    return width


def global_head_dim(reader: ConfigReader, _: str) -> int:
    """Gemma-4: `global_head_dim` in layers with full attention, without `per_layer_config`."""
    is_global = reader.layer_type == FULL and reader.from_file(PER_LAYER) is None
    return reader.size("global_head_dim" if is_global else "head_dim")


def hidden_size(reader: ConfigReader, _: str) -> int:
    """EfficientLoFTR: the rotation spans the hidden states, before they are split into heads."""
    return reader.size("hidden_size")


def memory_attention(reader: ConfigReader, _: str) -> int:
    """SAM 2 video, SAM 3 tracker, EdgeTAM: the heads of memory attention."""
    width = reader.size("memory_attention_hidden_size", 256)
    rate = reader.size("memory_attention_downsample_rate", 1)
    return width // (rate * reader.size("memory_attention_num_attention_heads", 1))


def named(reader: ConfigReader, key: str) -> int:
    """Return the width that the config has under another name, `key`."""
    width = reader.size(key)
    reader.record("head_dim", reader.provenance.get(key, CLASS_DEFAULT), reader.why.get(key, ""))
    return width


def derived(reader: ConfigReader) -> int:
    """Return hidden_size / num_attention_heads.

    Raises:
        ConfigError: the number of heads does not divide hidden_size.
    """
    hidden, heads = reader.size("hidden_size"), reader.size("num_attention_heads")
    if hidden % heads:
        expected = f"given, because hidden_size {hidden} is no multiple of {heads} heads"
        raise ConfigError(reader.key_name("head_dim"), expected, "none")
    formula = f"{reader.key_name('hidden_size')} / {reader.key_name('num_attention_heads')}"
    reader.record("head_dim", DERIVED, formula)
    return hidden // heads
