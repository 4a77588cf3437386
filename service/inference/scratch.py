"""Estimate the temporary memory of a call on a CPU: tables, masks, scores and copies."""

import torch

from rope_core import Attend, Call, CosSin, Merge, Rotate, Shift
from rope_core.calls import table_bytes

EXACT_FACTOR = 5
"""Bytes for each byte of a float32 table where angles, cos and sin are computed in float64."""

EAGER_SCORES = 2**24
"""Most scores that the eager backend holds at a time; at least the scores of one query."""

MASKED_ROWS = 512
"""Queries per block of a mask."""

MASK_BYTES = 16
"""Bytes of a mask for each pair of query and key: int64 distances, and boolean masks."""


def scratch_bytes(call: Call, backend: str | None) -> int:
    """Return an estimate of the temporary memory of a call in bytes.

    Input and output tensors are not included, and neither are a few MiB of fixed workspace that
    some operators of torch allocate.

    Args:
        call: the call.
        backend: name of the backend that runs the call; None: the library chooses.
    """
    match call:
        case Rotate(rope=rope, positions=positions, frequencies=frequencies):
            tables = table_bytes(call.num_tokens, rope, frequencies)
            return tables * (EXACT_FACTOR if _is_exact(positions) else 1)
        case Shift(rope=rope):
            return table_bytes(call.num_tokens, rope, None) * EXACT_FACTOR
        case CosSin(positions=positions):
            return call.num_bytes * (EXACT_FACTOR - 1) if _is_exact(positions) else 0
        case Merge(out=out, lse=lse):  # the parts in float32, and the weighted parts
            return 8 * out.numel() + 4 * out[0].numel() + 2 * lse.nbytes
        case Attend():
            return _attend(call, backend)


def _is_exact(positions: torch.Tensor | None) -> bool:
    """Return whether angles are computed in float64 by every backend: positions are fractional."""
    return positions is not None and positions.is_floating_point()


def _attend(call: Attend, backend: str | None) -> int:
    q, k, v = call.q, call.k, call.v
    head_dim, value_dim = q.shape[-1], v.shape[-1]
    num_heads = q.shape[-2]
    lengths = call.lengths or ((q.shape[-3],), (k.shape[-3],))
    pairs = [(i, j) for i, j in zip(*lengths, strict=True)]
    num_bytes = v.nbytes  # an aligned copy
    num_bytes += q.nbytes + k.nbytes  # rotated, or aligned copies
    if call.rope is not None:
        factor = EXACT_FACTOR if _is_exact(call.q_positions) or _is_exact(call.k_positions) else 1
        num_tokens = q.shape[:-2].numel() + k.shape[:-2].numel()
        num_bytes += table_bytes(num_tokens, call.rope, call.frequencies) * factor
    is_half = q.dtype is not torch.float32
    if backend == "eager" or call.attention.softcap is not None:
        num_bytes += max(_eager_scores(i, j, num_heads, call) for i, j in pairs)
        num_bytes += max(4 * j for _, j in pairs) * k.shape[-2] * (head_dim + value_dim) * 2
        return num_bytes
    if is_half and (call.out_dtype is torch.float32 or call.sinks is not None):
        num_bytes += 4 * (q.numel() + k.numel() + v.numel() + q.numel() // head_dim * value_dim)
    if value_dim != head_dim:
        num_bytes = num_bytes * max(head_dim, value_dim) // min(head_dim, value_dim)
    if not _is_unmasked(call):
        num_bytes += max(min(MASKED_ROWS, i) * j for i, j in pairs) * MASK_BYTES
        num_bytes += q.nbytes // head_dim * value_dim  # parts of the output, before they are joined
    return num_bytes


def _eager_scores(num_queries: int, num_keys: int, num_heads: int, call: Attend) -> int:
    """Return the bytes of the scores of a sequence, and of the tensors computed from them."""
    row = num_heads * num_keys
    num_scores = min(num_queries * row, max(EAGER_SCORES, row))
    num_masks = 1 if call.mask is None or call.mask.ndim < 3 else call.mask.shape[-3]
    hidden = num_scores // num_heads * (MASK_BYTES + num_masks)
    return num_scores * (12 if call.attention.softcap is not None else 8) + hidden


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
