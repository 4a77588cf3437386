"""Decode: one query of each sequence over its cached keys. Work is the bytes of K and V, read once.

The goal is relative to a read of as many bytes. The ratio to a copy, which also writes, is printed
too; it is easier to reach.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu_cases import floors, kernels, library_attention, reference
from benchmarks.gpu_cases.case import Case, CaseFactory, Provider
from benchmarks.gpu_cases.sizes import Sizes, dtype_name, randn


def cases(sizes: Sizes) -> Iterator[tuple[str, CaseFactory]]:
    """Yield the name and the factory of each case."""
    shortest, longest = sizes.decode_keys
    for batch in sizes.decode_batches:
        lengths = uneven_lengths(batch, shortest, longest)
        for kv_layout in ("pages", "packed"):
            name = f"decode B={batch}, {shortest}-{longest} keys, {kv_layout}"
            yield name, partial(_case, sizes, lengths, kv_layout == "pages", 0.75)
    for kv_layout in ("pages", "packed"):
        name = f"decode B=1, {sizes.long_keys} keys, {kv_layout}"
        yield name, partial(_case, sizes, [sizes.long_keys], kv_layout == "pages", 0.6)
    count, short, long = sizes.skewed_decode
    lengths = [short] * (count // 2) + [long] + [short] * (count - count // 2)
    name = f"decode {count} x {short} and 1 x {long} keys, packed"
    yield name, partial(_case, sizes, lengths, False, None)
    lengths = uneven_lengths(sizes.decode_batches[0] // 2, shortest, longest)
    name = f"decode B={len(lengths)}, {shortest}-{longest} keys, packed"
    for dtype, head_dim in ((torch.float32, sizes.head_dim), (torch.bfloat16, sizes.head_dim // 2)):
        title = f"{name}, {dtype_name(dtype)}, D={head_dim}"
        yield title, partial(_case, sizes, lengths, False, None, dtype, head_dim)


def _case(
    sizes: Sizes,
    lengths: Sequence[int],
    paged: bool,
    min_ratio: float | None,
    dtype: torch.dtype = torch.bfloat16,
    head_dim: int | None = None,
) -> Case:
    head_dim = head_dim or sizes.head_dim
    heads, kv_heads = sizes.heads
    q = randn(sizes, len(lengths), heads, head_dim, dtype=dtype)
    k, v = (randn(sizes, sum(lengths), kv_heads, head_dim, dtype=dtype) for _ in range(2))
    ones = [1] * len(lengths)
    expected = reference.attention(q, k, v, ones, lengths)
    num_bytes = float(k.nbytes + v.nbytes)
    comparisons = [
        floors.read_comparison(sizes, num_bytes, min_ratio),
        floors.copy_comparison(sizes, num_bytes, min_ratio),
    ]
    if paged:
        pages, block_table = to_pages(k, v, lengths, sizes.page_size)
        run = kernels.attend(q, pages[:, 0], pages[:, 1], ones, lengths, block_table)
        libraries = library_attention.paged_decodes(q, pages, block_table, lengths, expected)
    else:
        run = kernels.attend(q, k, v, ones, lengths)
        libraries = library_attention.packed_decodes(q, k, v, lengths, expected)
    return Case(Provider("ours", run, expected), comparisons, num_bytes, libraries=libraries)


def uneven_lengths(count: int, shortest: int, longest: int) -> list[int]:
    """Return evenly spaced lengths in a shuffled order, the same in every call."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return torch.linspace(shortest, longest, count).long()[order].tolist()


def to_pages(k: Tensor, v: Tensor, lengths: Sequence[int], page_size: int) -> tuple[Tensor, Tensor]:
    """Copy packed keys and values to pages in random order.

    Args:
        k: keys `[T, Hkv, D]` of all sequences.
        v: values `[T, Hkv, D]`.
        lengths: tokens of each sequence.
        page_size: tokens of a page.

    Returns:
        Pages `[pages, 2, Hkv, page_size, D]`, NaN where there is no token, and the block table
        `[sequences, blocks]`, -1 beyond the end of a sequence.
    """
    counts = [-(-length // page_size) for length in lengths]
    order = torch.randperm(sum(counts)).int().to(k.device)
    block_table = order.new_full((len(lengths), max(counts)), -1)
    shape = (len(order), 2, k.shape[1], page_size, k.shape[2])
    pages = k.new_full(shape, torch.nan)
    block_slices, token_slices = reference.seq_slices(counts), reference.seq_slices(lengths)
    for row, blocks, tokens in zip(block_table, block_slices, token_slices, strict=True):
        row[: blocks.stop - blocks.start] = order[blocks]
        index = torch.arange(tokens.stop - tokens.start, device=k.device)
        page, offset = order[blocks][index // page_size], index % page_size
        pages[page, 0, :, offset] = k[tokens]
        pages[page, 1, :, offset] = v[tokens]
    return pages, block_table
