"""Packed sequences of different lengths: where each starts, and its tokens' positions."""

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
    starts, lengths = cu_seqlens[:-1], cu_seqlens.diff()
    return counted - starts.to(device).repeat_interleave(lengths.to(device))


def token_positions(x: Tensor, positions: Tensor | None, cu_seqlens: Tensor | None) -> Tensor:
    """Return the position of each token of `x`, batch and sequence laid end to end: `[tokens]`."""
    if positions is None:
        positions = count_up(x.shape[-3], cu_seqlens, x.device)
    flat = positions.reshape(-1)
    num_tokens = x.shape[:-2].numel()
    # one row of positions may stand for every row of the batch
    return flat if len(flat) == num_tokens else flat.repeat(x.shape[0])
