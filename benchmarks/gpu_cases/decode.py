"""One query of each sequence over its cached keys: K and V count once, as read.

The goal is set over a read of as many bytes. Over the copy, which also writes, it is easier to
meet; both are stated.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu_cases import floors, kernels, library_attention, reference
from benchmarks.gpu_cases.case import Case, Make, Over, Side
from benchmarks.gpu_cases.sizes import Sizes, randn, short


def cases(sizes: Sizes) -> Iterator[tuple[str, Make]]:
    """Yield names of cases, and what makes them."""
    least, most = sizes.cached
    for batch in sizes.batches:
        lengths = uneven(batch, least, most)
        for way in ("pages", "packed"):
            name = f"decode B={batch}, {least}-{most} keys, {way}"
            yield name, partial(_case, sizes, lengths, way == "pages", 0.75)
    for way in ("pages", "packed"):
        name = f"decode B=1, {sizes.long} keys, {way}"
        yield name, partial(_case, sizes, [sizes.long], way == "pages", 0.6)
    many, short_length, long_length = sizes.skewed
    lengths = [short_length] * (many // 2) + [long_length] + [short_length] * (many - many // 2)
    name = f"decode {many} x {short_length} and 1 x {long_length} keys, packed"
    yield name, partial(_case, sizes, lengths, False, None)
    lengths = uneven(sizes.batches[0] // 2, least, most)
    name = f"decode B={len(lengths)}, {least}-{most} keys, packed"
    for dtype, width in ((torch.float32, sizes.head_dim), (torch.bfloat16, sizes.head_dim // 2)):
        title = f"{name}, {short(dtype)}, D={width}"
        yield title, partial(_case, sizes, lengths, False, None, dtype, width)


def _case(
    sizes: Sizes,
    lengths: Sequence[int],
    paged: bool,
    least: float | None,
    dtype: torch.dtype = torch.bfloat16,
    width: int | None = None,
) -> Case:
    width = width or sizes.head_dim
    heads, kv_heads = sizes.heads
    q = randn(sizes, len(lengths), heads, width, dtype=dtype)
    k, v = (randn(sizes, sum(lengths), kv_heads, width, dtype=dtype) for _ in range(2))
    ones = [1] * len(lengths)
    told = reference.attention(q, k, v, ones, lengths)
    moved = float(k.nbytes + v.nbytes)
    over: list[Over] = [
        floors.over_read(sizes, moved, least),
        floors.over_copy(sizes, moved, least),
    ]
    if paged:
        slab, table = in_pages(k, v, lengths, sizes.page_size)
        run = kernels.attend(q, slab[:, 0], slab[:, 1], ones, lengths, table)
        makes = library_attention.paged_decodes(q, slab, table, lengths, told)
    else:
        run = kernels.attend(q, k, v, ones, lengths)
        makes = library_attention.packed_decodes(q, k, v, lengths, told)
    return Case(Side("own", run, told), over, moved, others=makes)


def uneven(count: int, least: int, most: int) -> list[int]:
    """Return lengths from `least` to `most`, in an order of their own."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return torch.linspace(least, most, count).long()[order].tolist()


def in_pages(k: Tensor, v: Tensor, lengths: Sequence[int], page_size: int) -> tuple[Tensor, Tensor]:
    """Return keys and values in pages that lie anywhere in a slab, and the table of blocks.

    The slab is `[pages, 2, Hkv, page_size, D]`; what no key fills is NaN.
    """
    counts = [-(-length // page_size) for length in lengths]
    order = torch.randperm(sum(counts)).int().to(k.device)
    table = order.new_full((len(lengths), max(counts)), -1)
    shape = (len(order), 2, k.shape[1], page_size, k.shape[2])
    slab = k.new_full(shape, torch.nan)
    blocks, tokens = reference.spans(counts), reference.spans(lengths)
    for row, block, span in zip(table, blocks, tokens, strict=True):
        row[: block.stop - block.start] = order[block]
        at = torch.arange(span.stop - span.start, device=k.device)
        page, place = order[block][at // page_size], at % page_size
        slab[page, 0, :, place] = k[span]
        slab[page, 1, :, place] = v[span]
    return slab, table
