"""Which keys of a config bear on positions, by the words in their names.

A key bears on positions if it says how queries and keys get theirs: whether heads rotate, which
part of them, by which angles and in which layers, and what a model has instead of rotation or
beside it (ALiBi, relative positions, log-n scaling). The rule goes by words, because a model that
is not in any table can have any key. Sizes of tables, and what only training reads, do not count.
"""

import re
from functools import lru_cache

from rope_core.hf.variant import ORIGINAL

HEAD_WIDTHS = frozenset(
    (
        *("head_dim", "global_head_dim", "swa_head_dim", "attention_head_dim", "kv_channels"),
        *("head_size", "attention_head_size", "dim_head", "d_head"),
        *("hidden_size_per_head", "size_per_head"),
    )
)
"""Names of the width of a head, which counts where heads rotate."""

TRAINED_LENGTHS = frozenset(
    (
        *(ORIGINAL, "max_trained_positions", "initial_context_length", "original_seq_len"),
        *("original_max_seq_len", "original_seq_length", "original_context_length"),
    )
)
"""Names of the trained length, which counts for the variants that have it as a parameter."""

_ROTATION = re.compile(
    r"(?<![a-z])(?:(?!propert)[a-z\d]{0,4}rope[a-z\d]*|nope|rotary|rotat(?:e|ed|ion)|alibi"
    r"|ntk|yarn|theta|x_?pos|log_?n|(?:freqs?|frequency|sin_?cos)_base|base_(?:freq|frequency)"
    r"|wavelength|neox|gptj|self_extend|alpha_value"
    r"|dual_chunk|long_context|log_scaling|temperature_tuning|llama_4_scaling"
    r"|rot|interpolat(?:e|ion)_factor|(?:low|high)_freq_factor|beta_(?:fast|slow)"
    r"|(?:short|long)_(?:factor|mscale)|mscale(?:_all_dim)?|inv_freqs?|freq_factors?)(?![a-z])"
)
"""Words of rotation, and of scores that are scaled by position."""

_POSITION = re.compile(
    r"(?<![a-z])(?:(?:abs|absolute|rel|relative)_(?:pos|position|positions|attention)"
    r"|(?:pos|position|positional)_(?:emb|embed|embd|embeds|embds|embedding|embeddings|encoding"
    r"|encodings|enc|type|bias|biased|att|interpolation|interp|scale|scaling|cfg|config|args"
    r"|params)|sinusoidal|learned_pos|r?pe|cope)(?![a-z])"
)
"""Words of positions in other ways."""

_SIZE = re.compile(
    r"(?<![a-z])(?:max|num|n|size|grid|height|width|time|buckets|distance|bins|mode)(?![a-z])"
)
"""Words of the sizes of tables of positions."""

_PAIRS = re.compile(r"(?:is_|use_)?interleaved?")
"""Names, as a whole, of how channels are paired. Layers and experts also interleave."""

_RELATIVE_SIZE = re.compile(r"(?<![a-z])(?:rel|relative)_(?:pos|position|positions|attention)")
"""Words of relative positions, of which a model with a table has the size."""

_BESIDE_ROTATION = re.compile(
    r"(?<![a-z])(?:dropout|drop_(?:rate|prob)|jitter|rescale|std|feat_sizes|k_sizes"
    r"|object_pointers|nope_head_dim)(?![a-z])"
)
"""Words of what training reads, of the number of positions, of tokens beside the sequence, and of
the rest of an MLA head."""

_BESIDE_POSITION = re.compile(
    r"(?<![a-z])(?:dropout|drop|jitter|rescale|shift|init|std|object_pointers)(?![a-z])"
)
"""Words of what only training reads of other positions, and of tokens beside the sequence."""


def snake_case(key: str) -> str:
    """Return a key in the spelling that most configs have."""
    return re.sub(r"(?<=[a-z\d])(?=[A-Z])|[-.]", "_", key).lower()


@lru_cache(maxsize=4096)
def bears_on_positions(key: str) -> bool:
    """Return whether a key of a config says how queries and keys get their positions."""
    name = snake_case(key)
    if name in HEAD_WIDTHS or name in TRAINED_LENGTHS:
        return True
    if _ROTATION.search(name):
        return not _BESIDE_ROTATION.search(name)
    return is_of_other_encoding(name) or bool(_PAIRS.fullmatch(name))


def is_relative_size(key: str) -> bool:
    """Return whether a key is the size of a table of relative positions.

    A family that is known says by its class whether a model has such a table.
    """
    name = snake_case(key)
    return bool(_RELATIVE_SIZE.search(name) and _SIZE.search(name))


def is_of_other_encoding(name: str) -> bool:
    """Return whether a key in snake case is of absolute or relative positions, not of rotation."""
    is_position = _POSITION.search(name) and not _SIZE.search(name)
    return bool(is_position) and not (_ROTATION.search(name) or _BESIDE_POSITION.search(name))
