"""Estimate the temporary memory of a call on a CPU: tables, masks, scores and copies."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from rope_core import Attend, Call, CosSin, Merge, Rotate, Shift
from rope_core.calls import table_bytes

EXACT_FACTOR = 5
"""Bytes for each byte of a float32 table where angles, cos and sin are computed in float64."""

EAGER_SCORES = 2**20
"""Most scores that the eager backend holds at a time, and at least those of one query:
`SCORE_ELEMENTS` of the library."""

MASKED_ROWS = 512
"""Queries that share one mask in the backend sdpa: `MASK_ROWS` of the library."""

MASK_BYTES = 16
"""Bytes of a mask for each pair of query and key: int64 distances, and boolean masks."""


def _rotate(call: Rotate, num_tokens: int, _backend: str | None) -> int:
    rope, positions, frequencies = call.rope, call.positions, call.frequencies
    row = rope.table_row_bytes if frequencies is None else table_bytes(1, rope, frequencies)
    # every backend computes the angles of fractional positions in float64
    is_exact = positions is not None and positions.is_floating_point()
    return num_tokens * row * (EXACT_FACTOR if is_exact else 1)


def _shift(call: Shift, num_tokens: int, _backend: str | None) -> int:
    return table_bytes(num_tokens, call.rope, None) * EXACT_FACTOR


def _cos_sin(call: CosSin, _num_tokens: int, _backend: str | None) -> int:
    return call.num_bytes * (EXACT_FACTOR - 1) if call.positions.is_floating_point() else 0


def _merge(call: Merge, _num_tokens: int, _backend: str | None) -> int:
    """Return the bytes of the parts in float32, and of the weighted parts."""
    out, lse = call.out, call.lse
    return 8 * out.numel() + 4 * out[0].numel() + 2 * lse.nbytes


def _attend(call: Attend, _num_tokens: int, backend: str | None) -> int:
    q, k, v = call.q, call.k, call.v
    head_dim, value_dim = q.shape[-1], v.shape[-1]
    num_heads = q.shape[-2]
    lengths = call.lengths or ((q.shape[-3],), (k.shape[-3],))
    pairs = list(zip(*lengths, strict=True))  # numbers of queries and keys of each sequence
    num_bytes = v.nbytes  # an aligned copy
    num_bytes += q.nbytes + k.nbytes  # rotated, or aligned copies
    if call.rope is not None:
        tables = table_bytes(
            q.shape[:-2].numel() + k.shape[:-2].numel(), call.rope, call.frequencies
        )
        positions = call.q_positions, call.k_positions
        is_exact = any(p is not None and p.is_floating_point() for p in positions)
        num_bytes += tables * (EXACT_FACTOR if is_exact else 1)
    # sdpa leaves sequences with NaN or Inf to eager, which computes one after the other
    eager_bytes = max(_eager_scores(i, j, num_heads, call) for i, j in pairs)
    eager_bytes += max(4 * j for _, j in pairs) * k.shape[-2] * (head_dim + value_dim) * 2
    if backend == "eager" or call.attention.softcap is not None:
        return num_bytes + eager_bytes
    return num_bytes + max(eager_bytes, _operator_bytes(call, num_bytes, pairs))


def _operator_bytes(call: Attend, copied_bytes: int, pairs: Sequence[tuple[int, int]]) -> int:
    """Return the bytes that torch's operator needs beside `copied_bytes` of its inputs."""
    q, k, v = call.q, call.k, call.v
    head_dim, value_dim = q.shape[-1], v.shape[-1]
    num_bytes = 0
    is_half = q.dtype is not torch.float32
    if is_half and (call.out_dtype is torch.float32 or call.sinks is not None):
        num_bytes += 4 * (q.numel() + k.numel() + v.numel() + q.numel() // head_dim * value_dim)
    if value_dim != head_dim:
        widest, narrowest = max(head_dim, value_dim), min(head_dim, value_dim)
        num_bytes = (copied_bytes + num_bytes) * widest // narrowest - copied_bytes
    if not _is_unmasked(call):
        num_bytes += max(min(MASKED_ROWS, i) * j for i, j in pairs) * MASK_BYTES
        num_bytes += q.nbytes // head_dim * value_dim  # parts of the output, before they are joined
    return num_bytes


def _eager_scores(num_queries: int, num_keys: int, num_heads: int, call: Attend) -> int:
    """Return the bytes of the scores of a sequence, and of the tensors computed from them."""
    row = num_heads * num_keys
    num_scores = min(num_queries * row, max(EAGER_SCORES, row))
    num_masks = 1 if call.mask is None or call.mask.ndim < 3 else call.mask.shape[-3]
    mask_bytes = num_scores // num_heads * (MASK_BYTES + num_masks)
    return num_scores * (12 if call.attention.softcap is not None else 8) + mask_bytes


def _is_unmasked(call: Attend) -> bool:
    """Return whether torch's operator needs no mask: full attention, or causal of equal lengths."""
    config = call.attention
    if call.mask is not None or call.q_index is not None or config.chunk is not None:
        return False
    if config.window is not None or config.window_ahead:
        return False
    if not config.causal:
        return True
    return call.lengths is None and call.q.shape[-3] == call.k.shape[-3]


SCRATCH_BYTES: Mapping[type[Call], Callable[[Any, int, str | None], int]] = {
    Rotate: _rotate,
    Shift: _shift,
    CosSin: _cos_sin,
    Merge: _merge,
    Attend: _attend,
}
"""Functions that estimate the temporary memory of a call in bytes, by type of call.

The arguments are the call, its number of tokens, and the name of the backend that runs the call, or
None if the library chooses. Input and output tensors are not included, and neither are a few MiB of
fixed workspace that some operators of torch allocate.
"""
