"""Calls of the kernels as tests make them: memory that holds NaN, keys in pages."""

import math

import torch

from rope_core import AttentionConfig
from rope_core.kernels.attention import attend
from tests.core.oracle import qkv


def ends(lengths):
    return torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)


def packed(lengths_q, lengths_k, *, heads=4, kv_heads=2, head_dim=16, **options):
    """Return q, k and v of packed sequences."""
    q_shape, k_shape = (sum(lengths_q), heads, head_dim), (sum(lengths_k), kv_heads, head_dim)
    return qkv(q_shape, k_shape, **options)


def run(q, k, v, lengths_q, lengths_k, config=None, *, out_dtype=None, **options):
    """Return out and lse of packed sequences, written over NaN."""
    dtype = out_dtype or q.dtype
    out = torch.full((*q.shape[:2], v.shape[-1]), math.nan, dtype=dtype)
    lse = torch.full(q.shape[:2], math.nan)
    attend(
        *(q, k, v, out, lse, config or AttentionConfig()),
        lengths=(lengths_q, lengths_k),
        **options,
    )
    return out, lse


def paged(k, v, lengths, page_size):
    """Return k and v in pages that lie in any order, and the table; unused slots hold NaN."""
    num_pages_of = [-(-n // page_size) for n in lengths]
    num_pages, kv_heads = sum(num_pages_of) + 3, k.shape[1]
    order = torch.randperm(num_pages, generator=torch.Generator().manual_seed(0)).tolist()
    pools = [
        torch.full((num_pages, kv_heads, page_size, x.shape[-1]), math.nan, dtype=x.dtype)
        for x in (k, v)
    ]
    table = torch.full((len(lengths), max(num_pages_of) + 1), -1, dtype=torch.int32)
    start = 0
    for sequence, length in enumerate(lengths):
        for j in range(length):
            slot = j % page_size
            if slot == 0:
                table[sequence, j // page_size] = order.pop()
            page = table[sequence, j // page_size]
            for pool, x in zip(pools, (k, v), strict=True):
                pool[page, :, slot] = x[start + j]
        start += length
    return *pools, table
