"""Attention over rotated queries and keys."""

from itertools import pairwise, starmap

import torch
from torch import Tensor

from rope_core.backends import Attention, select
from rope_core.calls import Attend, Attended
from rope_core.config import RopeConfig
from rope_core.inference import inference
from rope_core.rotary import Angles, of_key, rotate_by, token_angles

JOINED_ELEMENTS = 2**17
"""Up to here, copying q and k together costs less than rotating them one after the other."""


@inference
def attend(call: Attend) -> Attended:
    """Rotate q and k by their positions, then attend. The tensors of `call` are not written to."""
    q, k, v, rope = call.q, call.k, call.v, call.rope
    if rope is not None:
        q, k, v, of_q = _rotated(call, rope)
    spans = _spans(call)
    one = q.ndim == 3 and spans is None
    q, k, v = (x[None] for x in (q, k, v)) if one else (q, k, v)
    work = Attention(q, k, v, call.attention, spans, call.sinks, _mask(call))
    out, lse = select(work).run(work)
    if one:
        out, lse = out[0], lse[0]
    if rope is not None and rope.values == "and_back":
        out = rotate_by(out, of_q, rope, True, None)
    return Attended(out, lse if call.return_lse else None)


def _spans(call: Attend) -> list[tuple[slice, slice]] | None:
    if call.cu_seqlens_q is None or call.cu_seqlens_k is None:
        return None
    q_ends, k_ends = call.cu_seqlens_q.tolist(), call.cu_seqlens_k.tolist()
    queries, keys = (starmap(slice, pairwise(ends)) for ends in (q_ends, k_ends))
    spans = zip(queries, keys, strict=True)
    return [(q, k) for q, k in spans if q.start < q.stop]


def _mask(call: Attend) -> Tensor | None:
    """Return the mask with all its axes, spread over all but those of heads."""
    mask, q = call.mask, call.q
    if mask is None:
        return None
    mask = mask if mask.ndim == 4 else mask[None, None]
    num_rows = len(q) if q.ndim == 4 else 1
    return mask.expand(num_rows, -1, q.shape[-3], call.k.shape[-3])


def _rotated(call: Attend, rope: RopeConfig) -> tuple[Tensor, Tensor, Tensor, Angles]:
    """Return q, k and v as they attend, and the angles of queries."""
    q, k, v = call.q, call.k, call.v
    at = token_angles(q, call.q_positions, call.cu_seqlens_q, rope, call.frequencies)
    together = (
        call.k_positions is call.q_positions
        and call.cu_seqlens_k is call.cu_seqlens_q
        and k.shape[:-2] == q.shape[:-2]
    )
    small = q.numel() + k.numel() <= JOINED_ELEMENTS
    if together and small and at.scale is None and at.cos.ndim == 2 and rope.values == "kept":
        heads = rotate_by(torch.cat((q, k), -2), at, rope, False, None)
        return heads[..., : q.shape[-2], :], heads[..., q.shape[-2] :, :], v, at
    of_k = at
    if not together:
        of_k = token_angles(k, call.k_positions, call.cu_seqlens_k, rope, call.frequencies)
    of_k = of_key(of_k)
    rotated = rotate_by(q, at, rope, False, None), rotate_by(k, of_k, rope, False, None)
    return *rotated, v if rope.values == "kept" else rotate_by(v, of_k, rope, False, None), at
