"""Warnings of attention whose tokens may be counted from a wrong position.

Except for packs, they depend on which tensors there are and on their shapes, not on numbers.
"""

from rope_core import Attend

_REMEDY = "Send their positions as q_positions"


def attention_warnings(call: Attend) -> tuple[str, ...]:
    """Return warnings for the sides that rotate without positions though they may need them."""
    if call.rope is None or not call.q.numel():
        return ()
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
            f"Send their positions as {remedy}",
        )
    return _warnings_of_lengths(call) if counts_q else ()


def depends_on_lengths(call: Attend) -> bool:
    """Tell whether the numbers in `cu_seqlens` decide if there is a warning."""
    return (
        call.rope is not None
        and call.rotate != "k"
        and call.q_positions is None
        and call.cu_seqlens_q is not call.cu_seqlens_k
    )


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
