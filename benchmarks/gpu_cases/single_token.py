"""One token: microseconds of a call in a CUDA graph of many, each over buffers of its own."""

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks import torch_baseline
from benchmarks.gpu_cases import (
    cuda_timing,
    kernels,
    library_attention,
    library_rotation,
    reference,
)
from benchmarks.gpu_cases.case import Case, Make, Over, Side
from benchmarks.gpu_cases.decode import in_pages
from benchmarks.gpu_cases.rotation import frequencies
from benchmarks.gpu_cases.sizes import Sizes, poison, randn


def cases(sizes: Sizes) -> Iterator[tuple[str, Make]]:
    """Yield names of cases, and what makes them."""
    for way in ("table", "positions"):
        yield f"rotate 1 token by {way}, graph", partial(_rotate, sizes, way == "table")
    for way in ("pages", "packed"):
        name = f"decode B=1, {sizes.small} keys, {way}, graph"
        yield name, partial(_decode, sizes, way == "pages")


def _rotate(sizes: Sizes, by_table: bool) -> Case:
    xs = [randn(sizes, sizes.calls, h, sizes.head_dim) for h in sizes.heads]
    ids = torch.randint(sizes.table, (sizes.calls,), device=sizes.device)
    tables = torch_baseline.tables(torch.arange(sizes.table, device=sizes.device), sizes.head_dim)
    table = [t[:, 0, : sizes.head_dim // 2].contiguous() for t in tables]
    told, outs, runs = reference.rotation(xs, ids), poison(*xs), []
    for i in range(sizes.calls):
        one = [x[i : i + 1] for x in xs], [out[i : i + 1] for out in outs]
        if by_table:
            runs.append(kernels.rotate(*one, table, ids[i : i + 1], "half"))
        else:
            runs.append(kernels.rotate_at(*one, ids[i : i + 1], frequencies(sizes), "half"))
    own = Side("own", cuda_timing.graphed(runs), told, lambda _: outs)
    moved = 2.0 * sum(x.nbytes for x in xs) / sizes.calls
    makes = library_rotation.small_rotations(xs, ids, tables, told) if by_table else ()
    return Case(own, [Over("us", (), most=6.0)], moved, others=makes, calls=sizes.calls)


def _decode(sizes: Sizes, paged: bool) -> Case:
    heads, kv_heads = sizes.heads
    q = randn(sizes, sizes.calls, heads, sizes.head_dim)
    shape = sizes.calls * sizes.small, kv_heads, sizes.head_dim
    k, v = randn(sizes, *shape), randn(sizes, *shape)
    ones, lengths = [1] * sizes.calls, [sizes.small] * sizes.calls
    told = reference.attention(q, k, v, ones, lengths)
    runs = []
    slab, table = in_pages(k, v, lengths, sizes.page_size) if paged else (None, None)
    for i, span in enumerate(reference.spans(lengths)):
        if slab is not None and table is not None:
            keys, blocks = (slab[:, 0], slab[:, 1]), table[i : i + 1]
        else:
            keys, blocks = (k[span], v[span]), None
        runs.append(kernels.attend(q[i : i + 1], *keys, [1], lengths[:1], blocks))
    own = Side("own", cuda_timing.graphed(runs), told, reference.together)
    moved = float(k.nbytes + v.nbytes) / sizes.calls
    makes = library_attention.small_decodes(q, k, v, lengths, told)
    return Case(own, [Over("us", (), most=15.0)], moved, others=makes, calls=sizes.calls)
