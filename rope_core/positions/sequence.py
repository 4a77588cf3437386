"""Positions in sequences: behind a cache, beside padding, in packed documents."""

import torch
from torch import Tensor

from rope_core.checks import check_cu_seqlens
from rope_core.errors import ShapeError
from rope_core.positions import limits
from rope_core.positions.tokens import check_mask
from rope_core.ragged import sequence_positions


def offset_positions(*, length: int, start: int = 0) -> Tensor:
    """Return start, start + 1, ...: the positions of new tokens behind a cache.

    Args:
        length: new tokens.
        start: tokens before them, as they were counted, not as many as a cache kept of them.

    Returns:
        int64 `[length]`.

    >>> offset_positions(length=3, start=5).tolist()
    [5, 6, 7]
    """
    limits.whole("length", length, 1, limits.MAX_POSITIONS)
    return torch.arange(length) + limits.whole("start", start, -limits.FARTHEST)


def interpolated_positions(*, length: int, start: float = 0.0, factor: float = 1.0) -> Tensor:
    """Return (i + start) / factor: linear position interpolation (rotary-embedding-torch).

    Args:
        length: tokens.
        start: added to each index.
        factor: positions are this much closer together.

    Returns:
        float32 `[length]`.
    """
    limits.whole("length", length, 1, limits.MAX_POSITIONS)
    limits.real("start", start)
    return (torch.arange(length).float() + start) / limits.positive("factor", factor)


def mask_positions(*, attention_mask: Tensor, padding: int = 0) -> Tensor:
    """Return positions that count tokens and not padding, on whichever side it is.

    Args:
        attention_mask: 1 for tokens, 0 for padding: int64 `[S]` or `[B, S]`.
        padding: position of padding; generate() of transformers has 1, M-RoPE's 5.23 has 0.

    Returns:
        int64, of the shape of `attention_mask`.

    >>> mask_positions(attention_mask=torch.tensor([0, 0, 1, 1])).tolist()
    [0, 0, 0, 1]
    """
    mask = check_mask(attention_mask)
    limits.whole("padding", padding, -limits.FARTHEST)
    return (mask.cumsum(-1) - 1).masked_fill(~mask, padding)


def packed_positions(*, cu_seqlens: Tensor) -> Tensor:
    """Return positions that start anew with each packed document.

    Args:
        cu_seqlens: int64 or int32 `[documents + 1]`, where each starts; from 0 to all tokens.

    Returns:
        int64 `[tokens]`.

    >>> packed_positions(cu_seqlens=torch.tensor([0, 2, 5])).tolist()
    [0, 1, 0, 1, 2]
    """
    starts = limits.integers("cu_seqlens", cu_seqlens, "[documents + 1]", (1,))
    tokens = limits.few("cu_seqlens", max(int(starts[-1]), 0))
    check_cu_seqlens("cu_seqlens", starts, torch.empty(tokens, 0, 0))
    return sequence_positions(tokens, starts, starts.device)


def document_boundaries(*, positions: Tensor) -> Tensor:
    """Return where documents start in packed positions: a step other than 1 starts one.

    This is how transformers 5 reads `position_ids` without a mask: a gap starts a document too.

    Args:
        positions: int64 `[S]`.

    Returns:
        cu_seqlens: int64 `[documents + 1]`.

    >>> document_boundaries(positions=torch.tensor([0, 1, 0, 1, 2])).tolist()
    [0, 2, 5]
    """
    points = limits.integers("positions", positions, "[S]", (1,))
    breaks = (points.diff() != 1).nonzero().flatten() + 1
    return torch.nn.functional.pad(breaks, (1, 1)).index_fill(
        0, torch.tensor([len(breaks) + 1]), len(points)
    )


def decode_positions(
    *, rope_delta: Tensor, length: int, new_tokens: int = 1, axes: int = 3
) -> Tensor:
    """Return positions of tokens that are decoded behind M-RoPE's prompt: length + delta on.

    Args:
        rope_delta: `[B]`, as `mrope_index` gives it.
        length: tokens before them, padding as `rope_delta` counts it.
        new_tokens: tokens of each row.
        axes: of the prompt's positions.

    Returns:
        `[axes, B, new_tokens]` of the dtype of `rope_delta`, one position on all axes.
    """
    if isinstance(rope_delta, Tensor) and rope_delta.is_floating_point():
        delta = limits.fractions("rope_delta", rope_delta, "[B]", (1,))
    else:
        delta = limits.integers("rope_delta", rope_delta, "[B]", (1,))
    limits.whole("length", length)
    limits.whole("new_tokens", new_tokens, 1, limits.MAX_POSITIONS)
    limits.whole("axes", axes, 1, 16)
    limits.few("new_tokens", axes * len(delta) * new_tokens)
    if bool((delta + length < 0).any()):
        raise ShapeError("rope_delta", f"-{length} or more, as many tokens are before", "less")
    points = torch.arange(new_tokens) + (delta + length)[:, None]
    return points.expand(axes, -1, -1)
