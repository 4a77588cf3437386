"""Merging of partial answers, and keys that move to other positions, over a copy."""

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.gpu_cases import floors, kernels, library_rotation, reference
from benchmarks.gpu_cases.case import Case, Make, Side
from benchmarks.gpu_cases.rotation import frequencies
from benchmarks.gpu_cases.sizes import Sizes, poison, randn, short


def cases(sizes: Sizes) -> Iterator[tuple[str, Make]]:
    """Yield names of cases, and what makes them."""
    for parts, dtype in ((4, torch.bfloat16), (16, torch.bfloat16), (4, torch.float32)):
        yield f"merge {parts} parts, {short(dtype)}", partial(_merge, sizes, parts, dtype)
    for dtype in (torch.bfloat16, torch.float32):
        yield f"re-position pages, {short(dtype)}", partial(_shift, sizes, dtype)


def _merge(sizes: Sizes, num_parts: int, dtype: torch.dtype) -> Case:
    parts = randn(sizes, num_parts, sizes.merged, sizes.head_dim, dtype=dtype)
    lse = 3 * randn(sizes, num_parts, sizes.merged, dtype=torch.float32)
    out = poison(parts[0], lse[0])
    told = reference.merging(parts, lse)
    own = Side("own", kernels.merge_parts(parts, lse, *out), told)
    moved = float(sum(x.nbytes for x in (parts, lse, *out)))
    over = [floors.over_copy(sizes, moved, least=0.8)]
    makes = library_rotation.merges(parts, lse, sizes.heads[0], told)
    return Case(own, over, moved, others=makes)


def _shift(sizes: Sizes, dtype: torch.dtype) -> Case:
    kv_heads = sizes.heads[1]
    pages = -(-sizes.moved // sizes.page_size)
    k = randn(sizes, pages, kv_heads, sizes.page_size, sizes.head_dim, dtype=dtype)
    slots = torch.randperm(pages, device=sizes.device)[:, None] * sizes.page_size
    slots = (slots + torch.arange(sizes.page_size, device=sizes.device)).flatten()[: sizes.moved]
    delta = torch.randint(-1000, 1000, (len(slots),), device=sizes.device)
    page, place = slots // sizes.page_size, slots % sizes.page_size
    told = reference.rotation([k[page, :, place]], delta)
    run = kernels.shift_pages(k, slots, delta, frequencies(sizes))
    own = Side("own", run, told, lambda found: [found[0][page, :, place]])
    moved = 2.0 * len(slots) * kv_heads * sizes.head_dim * k.element_size()
    return Case(own, [floors.over_copy(sizes, moved, least=0.8)], moved)
