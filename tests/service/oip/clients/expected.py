"""Expected outputs of models in float64, by a reference without code of the service."""

import torch
from torch import Tensor

from rope_core import AttentionConfig, RopeConfig, reference
from tests.core.oracle import ATTEND_BAR, LSE_BAR, ROTATE_BAR, expect, lse_off, off, spans

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def rotate(x: Tensor, positions: Tensor | None = None, rope: RopeConfig | None = None) -> Tensor:
    """Rotate x `[..., S, H, D]`; by default, positions are 0, 1, 2, ..."""
    rope = rope or RopeConfig.of(x.shape[-1])
    if positions is None:
        positions = torch.arange(x.shape[-3])
    return reference.rotate_complex(x, positions, rope)


def rotate_packed(x: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Rotate x `[T, H, D]`; positions of every sequence begin at 0."""
    return torch.cat([rotate(x[rows]) for rows, _ in spans(cu_seqlens, cu_seqlens)])


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    positions: tuple[Tensor | None, Tensor | None] = (None, None),
    rope: RopeConfig | None = None,
    cu_seqlens: Tensor | None = None,
    **config: object,
) -> tuple[Tensor, Tensor]:
    """Rotate q and k at their positions; return attention and its log-sum-exp."""
    if cu_seqlens is None:
        if positions[0] is None and q.shape[-3] != k.shape[-3]:  # the last query is at the last key
            positions = (torch.arange(k.shape[-3])[-q.shape[-3] :], None)
        q, k = (rotate(x, at, rope) for x, at in zip((q, k), positions, strict=True))
    else:
        q, k = (rotate_packed(x, cu_seqlens) for x in (q, k))
    causal = config.pop("causal", True)
    return expect(q, k, v, AttentionConfig(causal=causal, **config), cu_seqlens, cu_seqlens)


def check_rotated(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert actual.dtype is dtype
    assert off(actual, expected) <= ROTATE_BAR[dtype]


def check_attended(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert actual.dtype is dtype
    assert off(actual, expected) <= ATTEND_BAR[dtype]


def check_lse(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Check a log-sum-exp; only the service rounds rotated q and k to the dtype."""
    assert lse_off(actual, expected) <= max(LSE_BAR[dtype], ATTEND_BAR[dtype])
