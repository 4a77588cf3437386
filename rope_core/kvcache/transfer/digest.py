"""A digest of the rotations of a configuration."""

from hashlib import sha256

from rope_core.kvcache.config import KVConfig


def rope_digest(config: KVConfig) -> str:
    """Return 32 hexadecimal digits that differ where keys are rotated otherwise.

    Computed from frequencies, not from the parameters that they come from: the same parameters, or
    the same name of a model, may mean others in another version.
    """
    digest = sha256()
    for group in config.groups:
        rope = group.rope
        digest.update(repr((group.layers, group.head_dim)).encode())
        if rope is None:
            continue
        of_pairs = rope.rotary_dim, rope.layout, rope.trailing, rope.blocks, rope.negative
        digest.update(repr((rope.rope_type == "xpos", rope.num_axes, of_pairs)).encode())
        numbers = [*rope.frequency_table.inv_freq.flatten().tolist(), rope.attention_scaling]
        digest.update(" ".join(f"{number:.9e}" for number in numbers).encode())
        axis = rope.frequency_table.axis
        digest.update(repr(None if axis is None else axis.tolist()).encode())
    return digest.hexdigest()[:32]
