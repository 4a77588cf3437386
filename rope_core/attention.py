"""Attention over rotated queries and keys."""

from itertools import pairwise, starmap

import torch
from torch import Tensor

from rope_core.backends import Attention, select
from rope_core.calls import Attend, Attended
from rope_core.inference import inference
from rope_core.rotary import rotate_by, token_angles

JOINED_ELEMENTS = 2**17
"""Up to here, copying q and k together costs less than rotating them one after the other."""


@inference
def attend(call: Attend) -> Attended:
    """Rotate q and k by their positions, then attend. The tensors of `call` are not written to."""
    q, k = _rotated(call)
    spans = _spans(call)
    one = q.ndim == 3 and spans is None
    q, k, v = (x[None] for x in (q, k, call.v)) if one else (q, k, call.v)
    work = Attention(q, k, v, call.attention, spans)
    out, lse = select(work).run(work)
    if one:
        out, lse = out[0], lse[0]
    return Attended(out, lse if call.return_lse else None)


def _spans(call: Attend) -> list[tuple[slice, slice]] | None:
    if call.cu_seqlens_q is None or call.cu_seqlens_k is None:
        return None
    q_ends, k_ends = call.cu_seqlens_q.tolist(), call.cu_seqlens_k.tolist()
    queries, keys = (starmap(slice, pairwise(ends)) for ends in (q_ends, k_ends))
    spans = zip(queries, keys, strict=True)
    return [(q, k) for q, k in spans if q.start < q.stop]


def _rotated(call: Attend) -> tuple[Tensor, Tensor]:
    q, k, rope = call.q, call.k, call.rope
    if rope is None:
        return q, k
    at = token_angles(q, call.q_positions, call.cu_seqlens_q, rope)
    together = (
        call.k_positions is call.q_positions
        and call.cu_seqlens_k is call.cu_seqlens_q
        and k.shape[:-2] == q.shape[:-2]
    )
    if together and q.numel() + k.numel() <= JOINED_ELEMENTS:
        heads = rotate_by(torch.cat((q, k), -2), at, rope, False, None)
        return heads[..., : q.shape[-2], :], heads[..., q.shape[-2] :, :]
    rotated = rotate_by(q, at, rope, False, None)
    if not together:
        at = token_angles(k, call.k_positions, call.cu_seqlens_k, rope)
    return rotated, rotate_by(k, at, rope, False, None)
