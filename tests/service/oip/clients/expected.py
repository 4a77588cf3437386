"""What models answer, in float64, by the reference that shares no code with the service."""

import torch
from torch import Tensor

from rope_core import AttentionConfig, RopeConfig, reference
from tests.core.oracle import ATTEND_BAR, LSE_BAR, ROTATE_BAR, expect, lse_off, off, spans

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def turned(x: Tensor, positions: Tensor | None = None, rope: RopeConfig | None = None) -> Tensor:
    """Return x `[..., S, H, D]`, rotated."""
    rope = rope or RopeConfig.of(x.shape[-1])
    there = torch.arange(x.shape[-3]) if positions is None else positions
    return reference.rotate_complex(x, there, rope)


def turned_packed(x: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Return x `[T, H, D]`, rotated: each sequence begins at 0."""
    return torch.cat([turned(x[rows]) for rows, _ in spans(cu_seqlens, cu_seqlens)])


def attended(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    places: tuple[Tensor | None, Tensor | None] = (None, None),
    rope: RopeConfig | None = None,
    cu_seqlens: Tensor | None = None,
    **config: object,
) -> tuple[Tensor, Tensor]:
    """Return attention of rotated heads, and its log-sum-exp."""
    if cu_seqlens is None:
        if places[0] is None and q.shape[-3] != k.shape[-3]:  # the last query is at the last key
            places = (torch.arange(k.shape[-3])[-q.shape[-3] :], None)
        q, k = (turned(x, at, rope) for x, at in zip((q, k), places, strict=True))
    else:
        q, k = (turned_packed(x, cu_seqlens) for x in (q, k))
    causal = config.pop("causal", True)
    return expect(q, k, v, AttentionConfig(causal=causal, **config), cu_seqlens, cu_seqlens)


def check_rotated(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert found.dtype is dtype
    assert off(found, expected) <= ROTATE_BAR[dtype]


def check_attended(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert found.dtype is dtype
    assert off(found, expected) <= ATTEND_BAR[dtype]


def check_lse(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Check a log-sum-exp, of scores whose heads were rounded to the dtype once more."""
    assert lse_off(found, expected) <= max(LSE_BAR[dtype], ATTEND_BAR[dtype])
