"""Attention over rotated queries and keys."""

from functools import partial

import torch
from torch import Tensor

from rope_core.angles import Angles, Products, of_key, token_angles
from rope_core.backends import ATTEND_ONLY, Attention, run
from rope_core.calls import Attend, Attended
from rope_core.config import RopeConfig
from rope_core.inference import inference
from rope_core.ragged import count_up
from rope_core.rotary import rotate_by

JOINED_ELEMENTS = 2**17
"""Up to here, copying q and k together costs less than rotating them one after the other."""


@inference
def attend(call: Attend, backend: str | None = None) -> Attended:
    """Rotate q and k by their positions, then attend.

    Args:
        call: what to do; its tensors are not written to.
        backend: name of the one that attends, and rotates if it can; the first that can where None.

    Raises:
        NoBackend: the backend declines the call.
        KernelNotBuilt: a kernel of the backend named is still being built.
        ConfigError: there is none of that name.
    """
    q, k, v, rope = call.q, call.k, call.v, call.rope
    if rope is not None:
        q, k, v, of_q = _rotated(call, rope, backend)
    cu_seqlens = None
    if call.cu_seqlens_q is not None and call.cu_seqlens_k is not None:
        cu_seqlens = call.cu_seqlens_q, call.cu_seqlens_k
    one = q.ndim == 3 and cu_seqlens is None
    q, k, v = (x[None] for x in (q, k, v)) if one else (q, k, v)
    work = Attention(
        *(q, k, v, call.attention, call.lengths, cu_seqlens, call.sinks, _mask(call)),
        index=_index(call),
        out_dtype=call.out_dtype,
        return_lse=call.return_lse,
    )
    tensors, name = run(work, backend)
    out, *lse = (x[0] if one else x for x in tensors)
    if rope is not None and rope.values == "and_back":
        (out,), _ = rotate_by((out,), of_q, rope, True, (None,), backend, or_another=True)
    return Attended(out, lse[0] if call.return_lse else None, name)


def _index(call: Attend) -> tuple[Tensor, Tensor] | None:
    """Return the index of each query and key, spread over the rows of a batch."""
    of_q, of_k, q, k = call.q_index, call.k_index, call.q, call.k
    if of_q is None:
        return None
    if of_k is None:
        of_k = count_up(k.shape[-3], call.cu_seqlens_k, k.device)
    if call.cu_seqlens_q is not None:
        return of_q, of_k
    rows = len(q) if q.ndim == 4 else 1
    return of_q.expand(rows, -1), of_k.expand(rows, -1)


def _mask(call: Attend) -> Tensor | None:
    """Return the mask with all its axes, spread over all but those of heads."""
    mask, q = call.mask, call.q
    if mask is None:
        return None
    mask = mask if mask.ndim == 4 else mask[None, None]
    num_rows = len(q) if q.ndim == 4 else 1
    return mask.expand(num_rows, -1, q.shape[-3], call.k.shape[-3])


def _rotated(
    call: Attend, rope: RopeConfig, backend: str | None
) -> tuple[Tensor, Tensor, Tensor, Angles | Products]:
    """Return q, k and v as they attend, and the angles of queries."""
    q, k, v = call.q, call.k, call.v
    by = None if backend in ATTEND_ONLY else backend
    at = token_angles(q, call.q_positions, call.cu_seqlens_q, rope, call.frequencies, by)
    turn = partial(rotate_by, rope=rope, inverse=False, backend=by, or_another=True)
    together = (
        call.k_positions is call.q_positions
        and call.cu_seqlens_k is call.cu_seqlens_q
        and k.shape[:-2] == q.shape[:-2]
    )
    small = q.numel() + k.numel() <= JOINED_ELEMENTS
    alike = together and at.scale is None and rope.values == "kept"
    if alike and small and isinstance(at, Angles) and at.cos.ndim == 2:
        (heads,), _ = turn((torch.cat((q, k), -2),), at, outs=(None,))
        return heads[..., : q.shape[-2], :], heads[..., q.shape[-2] :, :], v, at
    if alike:
        (q, k), _ = turn((q, k), at, outs=(None, None))
        return q, k, v, at
    of_k = at
    if not together:
        of_k = token_angles(k, call.k_positions, call.cu_seqlens_k, rope, call.frequencies, by)
    (q,), _ = turn((q,), at, outs=(None,))
    of_keys = (k,) if rope.values == "kept" else (k, v)
    (k, *values), _ = turn(of_keys, of_key(of_k), outs=[None] * len(of_keys))
    return q, k, values[0] if values else v, at
