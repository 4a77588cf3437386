"""Packed sequences of different lengths: where each starts, and its tokens' positions."""

from itertools import pairwise

import torch
from torch import Tensor


def spans(tokens: Tensor, cu_seqlens: Tensor | None) -> list[tuple[int, int]]:
    """Return start and end of each sequence among the tokens, batch and sequence laid end to end.

    >>> spans(torch.empty(2, 3, 1, 8), None)
    [(0, 3), (3, 6)]
    >>> spans(torch.empty(9, 1, 8), torch.tensor([0, 2, 5, 9]))
    [(0, 2), (2, 5), (5, 9)]
    """
    if cu_seqlens is not None:
        return list(pairwise(cu_seqlens.tolist()))
    length = tokens.shape[-3]
    rows = tokens.shape[0] if tokens.ndim == 4 else 1
    return [(row * length, (row + 1) * length) for row in range(rows)]


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
