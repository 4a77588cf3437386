"""Attention over rotated queries and keys."""

import torch
from torch import Tensor

from rope_core import ragged
from rope_core.backends import Attention, select
from rope_core.calls import Attend, Attended
from rope_core.inference import inference
from rope_core.rotary import rotate_by, token_angles


@inference
def attend(call: Attend, out: Tensor | None = None) -> Attended:
    """Rotate q and k by their positions, then attend.

    Args:
        call: its tensors are not written to.
        out: where to write: a contiguous tensor `[..., H, Dv]` of q's tokens and dtype, which
            shares no memory with `call`. A new one where None.
    """
    q, k, v = call.q, call.k, call.v
    if call.rope is not None:
        q_at = token_angles(q, call.q_positions, call.cu_seqlens_q, call.rope)
        shared = (
            call.k_positions is call.q_positions
            and call.cu_seqlens_k is call.cu_seqlens_q
            and k.shape[:-2] == q.shape[:-2]
        )
        k_at = q_at if shared else token_angles(k, call.k_positions, call.cu_seqlens_k, call.rope)
        q = rotate_by(q, q_at, call.rope, False, None)
        k = rotate_by(k, k_at, call.rope, False, None)
    if out is None:
        out = torch.empty((*q.shape[:-1], v.shape[-1]), dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)
    work = Attention(
        q.flatten(0, -3),
        k.flatten(0, -3),
        v.flatten(0, -3),
        ragged.spans(q, call.cu_seqlens_q),
        ragged.spans(k, call.cu_seqlens_k),
        call.attention,
        out.flatten(0, -3),
        lse.flatten(0, -2),
    )
    select(work).run(work)
    return Attended(out, lse if call.return_lse else None)
