"""Operators of other libraries: what they can compute, and a trial of their answers."""

import math
from collections.abc import Callable
from itertools import accumulate

import torch
from torch import Tensor

from rope_core.backends import eager
from rope_core.backends.work import AttentionWork
from rope_core.config import AttentionConfig

MAX_DIFFERENCE = 2e-2
"""Of answers in bfloat16. Another base of logarithms or another alignment differs by more."""


def why_not_operator(work: AttentionWork) -> str | None:
    """Return why no FlashAttention and no cuDNN computes a call, None if one may."""
    q, v, config = work.q, work.v, work.config
    if q.dtype is torch.float32 or work.out_dtype not in (None, q.dtype):
        return "float32 is not in the operator"
    if config.softcap is not None or config.chunk is not None:
        return "softcap and chunk are not in the operator"
    if any(x is not None for x in (work.mask, work.sinks, work.index)):
        return "mask, sinks and index are not in the operator"
    if q.shape[-1] != v.shape[-1] or q.shape[-1] % 8:
        return "a value must be as wide as a key, and a multiple of 8"
    if work.scale <= 0:
        return "the scale is 0 or less"
    return None


def agrees(
    attend: Callable[[AttentionWork], tuple[Tensor, ...]],
    device: torch.device,
    lengths: tuple[list[int], list[int]] | None,
) -> bool:
    """Tell whether `attend` returns the `out` and `lse` of eager, for some causal tokens.

    `lse` is the natural logarithm, one number for each query and head, -inf for a query that sees
    no key.

    Args:
        attend: calls the operator, returns `out` and `lse`.
        device: where the operator runs. The host waits for the answer.
        lengths: queries and keys of packed sequences; None for a batch of one row of 64 tokens.
    """
    num_queries, num_keys = (64, 64) if lengths is None else map(sum, lengths)
    q, k, v = (_heads(*shape, device) for shape in ((num_queries, 4), (num_keys, 2), (num_keys, 2)))
    cu_seqlens = None
    if lengths is None:
        q, k, v = q[None], k.repeat_interleave(2, 1)[None], v.repeat_interleave(2, 1)[None]
    else:
        starts_q, starts_k = ([0, *accumulate(n)] for n in lengths)
        cu_seqlens = torch.tensor(starts_q, device=device), torch.tensor(starts_k, device=device)
    work = AttentionWork(q, k, v, AttentionConfig(), lengths, cu_seqlens)
    try:
        answer = attend(work)
    except RuntimeError:
        return False
    pairs = zip(answer, eager.run(work), strict=True)
    return all(
        x.shape == expected.shape
        and torch.allclose(x.float(), expected.float(), rtol=0, atol=MAX_DIFFERENCE)
        for x, expected in pairs
    )


def _heads(num_tokens: int, num_heads: int, device: torch.device) -> Tensor:
    """Return heads `[num_tokens, num_heads, 64]` in bfloat16, all elements different."""
    count = torch.arange(num_tokens * num_heads * 64, dtype=torch.float64)
    heads = (count * math.sqrt(2) + num_heads).sin().view(num_tokens, num_heads, 64)
    return heads.to(device, torch.bfloat16)
