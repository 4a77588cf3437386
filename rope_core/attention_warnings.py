"""Warnings of attention that may not be the one that was meant.

Except for packs, and for ropes that depend on a length, they depend on which tensors there are and
on their shapes, not on numbers.
"""

from rope_core.calls import Attend
from rope_core.config import RopeConfig

_REMEDY = "Give their positions as q_positions"


def attention_warnings(call: Attend, rope: RopeConfig | None) -> tuple[str, ...]:
    """Return warnings for a call.

    Args:
        call: the call.
        rope: of which the call was made; the call has its own length where none is fixed.
    """
    if call.rope is None or not call.q.numel():
        return ()
    return _warnings_of_counts(call) + _warnings_of_cache(call, rope)


def depends_on_lengths(call: Attend) -> bool:
    """Tell whether the numbers in `cu_seqlens` decide if there is a warning."""
    return (
        call.rope is not None
        and call.rotate != "k"
        and call.q_positions is None
        and call.cu_seqlens_q is not call.cu_seqlens_k
    )


def _warnings_of_counts(call: Attend) -> tuple[str, ...]:
    """Return warnings for the sides that rotate without positions though they may need them."""
    counts_q = call.rotate != "k" and call.q_positions is None
    counts_k = call.rotate != "q" and call.k_positions is None
    if counts_q and call.k_positions is not None:
        return (f"k_positions are given, but queries count from position 0. {_REMEDY}",)
    indexed = [
        side
        for side, counts, index in (("q", counts_q, call.q_index), ("k", counts_k, call.k_index))
        if counts and index is not None
    ]
    if indexed:
        names, remedy = " and ".join(indexed), " and ".join(f"{side}_positions" for side in indexed)
        return (
            f"an index rotates nothing: the rotation counts the tokens of {names} from position 0. "
            f"Give their positions as {remedy}",
        )
    return _warnings_of_lengths(call) if counts_q else ()


def _warnings_of_lengths(call: Attend) -> tuple[str, ...]:
    """Return a warning if queries and keys of a sequence are not the same tokens."""
    lengths = call.lengths or ((call.q.shape[-3],), (call.k.shape[-3],))
    for num_queries, num_keys in zip(*lengths, strict=True):
        if num_queries not in (0, num_keys):
            first = num_keys - num_queries
            return (
                f"queries count from position 0: there are no positions, and {num_queries} queries "
                f"for {num_keys} keys"
                + (" in a packed sequence" if call.lengths else "")
                + f". {_REMEDY}"
                + (f", from {first} on if they are the last tokens" if first > 0 else ""),
            )
    return ()


def _warnings_of_cache(call: Attend, rope: RopeConfig | None) -> tuple[str, ...]:
    """Return a warning if the side that is rotated already may have another length.

    A short call and this one rotate alike where the length makes no difference.
    """
    if rope is None or not rope.needs_length or call.rotate == "both":
        return ()
    if call.rope == rope.for_length(1):
        return ()
    return (
        f"the rotation of {rope.rope_type} depends on the length, here that of this call: "
        f"{'k' if call.rotate == 'q' else 'q'} must have been rotated for the same length. "
        "Fix length in the rope of both calls",
    )
