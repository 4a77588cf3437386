"""Merge of partial attention results, and re-positioning of cached keys; the floor is a copy."""

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.gpu_cases import floors, kernels, library_rotation, reference
from benchmarks.gpu_cases.case import Case, CaseFactory, Provider
from benchmarks.gpu_cases.rotation import frequencies
from benchmarks.gpu_cases.sizes import Sizes, dtype_name, nan_like, randn


def cases(sizes: Sizes) -> Iterator[tuple[str, CaseFactory]]:
    """Yield the name and the factory of each case."""
    for num_parts, dtype in ((4, torch.bfloat16), (16, torch.bfloat16), (4, torch.float32)):
        name = f"merge {num_parts} parts, {dtype_name(dtype)}"
        yield name, partial(_merge, sizes, num_parts, dtype)
    for dtype in (torch.bfloat16, torch.float32):
        yield f"re-position pages, {dtype_name(dtype)}", partial(_shift, sizes, dtype)


def _merge(sizes: Sizes, num_parts: int, dtype: torch.dtype) -> Case:
    parts = randn(sizes, num_parts, sizes.merge_rows, sizes.head_dim, dtype=dtype)
    lse = 3 * randn(sizes, num_parts, sizes.merge_rows, dtype=torch.float32)
    outs = nan_like(parts[0], lse[0])
    expected = reference.merge(parts, lse)
    ours = Provider("ours", kernels.merge_parts(parts, lse, *outs), expected)
    num_bytes = float(sum(x.nbytes for x in (parts, lse, *outs)))
    comparisons = [floors.copy_comparison(sizes, num_bytes, min_ratio=0.8)]
    libraries = library_rotation.merges(parts, lse, sizes.heads[0], expected)
    return Case(ours, comparisons, num_bytes, libraries=libraries)


def _shift(sizes: Sizes, dtype: torch.dtype) -> Case:
    kv_heads, page_size = sizes.heads[1], sizes.page_size
    num_pages = -(-sizes.shifted_keys // page_size)
    k = randn(sizes, num_pages, kv_heads, page_size, sizes.head_dim, dtype=dtype)
    page_starts = torch.randperm(num_pages, device=sizes.device)[:, None] * page_size
    slots = (page_starts + torch.arange(page_size, device=sizes.device)).flatten()
    slots = slots[: sizes.shifted_keys]
    delta = torch.randint(-1000, 1000, (len(slots),), device=sizes.device)
    page, offset = slots // page_size, slots % page_size
    expected = reference.rotation([k[page, :, offset]], delta)
    run = kernels.shift_pages(k, slots, delta, frequencies(sizes))
    ours = Provider("ours", run, expected, lambda result: [result[0][page, :, offset]])
    num_bytes = 2.0 * len(slots) * kv_heads * sizes.head_dim * k.element_size()
    return Case(ours, [floors.copy_comparison(sizes, num_bytes, min_ratio=0.8)], num_bytes)
