"""Packed sequences of different lengths: where each starts, and the positions of its tokens."""

import torch
from torch import Tensor


def sequence_positions(length: int, cu_seqlens: Tensor | None, device: torch.device) -> Tensor:
    """Return 0, 1, 2, ... for the tokens of each sequence, int64 `[length]`.

    >>> sequence_positions(5, torch.tensor([0, 2, 5]), torch.device("cpu")).tolist()
    [0, 1, 0, 1, 2]
    """
    tokens = torch.arange(length, device=device)
    if cu_seqlens is None:
        return tokens
    if device.type == "cpu":
        starts = cu_seqlens[:-1].repeat_interleave(cu_seqlens.diff(), output_size=length)
    else:
        starts = sequence_starts(tokens, cu_seqlens.to(device, torch.int64, non_blocking=True))
    return tokens - starts


def sequence_starts(tokens: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Return the start of the sequence of each token, int64 `[tokens]`, without a device sync.

    >>> sequence_starts(torch.arange(5), torch.tensor([0, 2, 2, 5])).tolist()
    [0, 0, 2, 2, 2]
    """
    return cu_seqlens.index_select(0, torch.bucketize(tokens, cu_seqlens, right=True) - 1)


def token_positions(
    x: Tensor, positions: Tensor | None, cu_seqlens: Tensor | None, has_axes: bool = False
) -> Tensor:
    """Return the position of each token of `x`, rows of a batch one after the other.

    `[tokens]`, or `[A, tokens]` if positions have several axes, which come first.
    """
    if positions is None:
        positions = sequence_positions(x.shape[-3], cu_seqlens, x.device)
    flat = positions.flatten(1) if has_axes else positions.reshape(-1)
    # one row of positions may stand for all rows of the batch
    rows = x.shape[:-2].numel() // flat.shape[-1] if flat.shape[-1] else 1
    return flat if rows == 1 else flat.repeat(*([1] * (flat.ndim - 1)), rows)


def longest_sequence(x: Tensor, cu_seqlens: Tensor | None) -> int:
    """Return the number of tokens of the longest sequence of `x`, `[B, S, H, D]` or `[T, H, D]`."""
    if cu_seqlens is None:
        return x.shape[-3]
    return int(cu_seqlens.diff().max()) if len(cu_seqlens) > 1 else 0
