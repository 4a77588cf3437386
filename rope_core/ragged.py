"""Packed sequences of different lengths: where each starts, and its tokens' positions."""

import math

import torch
from torch import Tensor


def count_up(length: int, cu_seqlens: Tensor | None, device: torch.device) -> Tensor:
    """Return 0, 1, 2, ... for `length` tokens, starting anew with each sequence: int64 `[length]`.

    >>> count_up(5, torch.tensor([0, 2, 5]), torch.device("cpu")).tolist()
    [0, 1, 0, 1, 2]
    """
    counted = torch.arange(length, device=device)
    if cu_seqlens is None:
        return counted
    if device.type == "cpu":
        starts = cu_seqlens[:-1].repeat_interleave(cu_seqlens.diff(), output_size=length)
    else:
        starts = starts_of(counted, cu_seqlens.to(device, torch.int64, non_blocking=True))
    return counted - starts


def starts_of(tokens: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Return where the sequence of each of `tokens` starts; the host reads nothing.

    >>> starts_of(torch.arange(5), torch.tensor([0, 2, 2, 5])).tolist()
    [0, 0, 2, 2, 2]
    """
    return cu_seqlens.index_select(0, torch.bucketize(tokens, cu_seqlens, right=True) - 1)


def token_positions(
    x: Tensor, positions: Tensor | None, cu_seqlens: Tensor | None, has_axes: bool = False
) -> Tensor:
    """Return the position of each token of `x`, batch and sequence laid end to end.

    `[tokens]`, or `[A, tokens]` where positions have several axes, which come first.
    """
    if positions is None:
        positions = count_up(x.shape[-3], cu_seqlens, x.device)
    leading = x.shape[:-2]
    flat = positions.flatten(1) if has_axes else positions.reshape(-1)
    # one row of positions may stand for every row of the batch
    rows = leading.numel() // flat.shape[-1] if flat.shape[-1] else 1
    return flat if rows == 1 else flat.repeat(*([1] * (flat.ndim - 1)), rows)


def reach(x: Tensor, positions: Tensor | None, cu_seqlens: Tensor | None) -> int:
    """Return the length that a call reaches over: its last position, over all rows, plus 1."""
    if positions is not None:
        return max(0, math.ceil(float(positions.max())) + 1) if positions.numel() else 0
    if cu_seqlens is None:
        return x.shape[-3]
    return int(cu_seqlens.diff().max()) if len(cu_seqlens) > 1 else 0
