"""Calls for one token: many calls in one CUDA graph, each with its own buffers; time per call."""

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
from benchmarks.gpu_cases.case import Case, CaseFactory, Comparison, Provider
from benchmarks.gpu_cases.decode import to_pages
from benchmarks.gpu_cases.rotation import frequencies
from benchmarks.gpu_cases.sizes import Sizes, nan_like, randn


def cases(sizes: Sizes) -> Iterator[tuple[str, CaseFactory]]:
    """Yield the name and the factory of each case."""
    for source in ("table", "positions"):
        yield f"rotate 1 token by {source}, graph", partial(_rotate, sizes, source == "table")
    for kv_layout in ("pages", "packed"):
        name = f"decode B=1, {sizes.short_keys} keys, {kv_layout}, graph"
        yield name, partial(_decode, sizes, kv_layout == "pages")


def _rotate(sizes: Sizes, from_table: bool) -> Case:
    count = sizes.graph_calls
    xs = [randn(sizes, count, h, sizes.head_dim) for h in sizes.heads]
    positions = torch.randint(sizes.table_length, (count,), device=sizes.device)
    all_positions = torch.arange(sizes.table_length, device=sizes.device)
    tables = torch_baseline.tables(all_positions, sizes.head_dim)
    table = [t[:, 0, : sizes.head_dim // 2].contiguous() for t in tables]
    expected, outs, runs = reference.rotation(xs, positions), nan_like(*xs), []
    for i in range(count):
        token = slice(i, i + 1)
        tensors = [x[token] for x in xs], [out[token] for out in outs]
        if from_table:
            runs.append(kernels.rotate(*tensors, table, positions[token], "half"))
        else:
            inv_freq = frequencies(sizes)
            runs.append(kernels.rotate_at(*tensors, positions[token], inv_freq, "half"))
    ours = Provider("ours", cuda_timing.capture_graph(runs), expected, lambda _: outs)
    num_bytes = 2.0 * sum(x.nbytes for x in xs) / count
    libraries = (
        library_rotation.graph_rotations(xs, positions, tables, expected) if from_table else ()
    )
    comparison = Comparison("us", (), max_ratio=6.0)
    return Case(ours, [comparison], num_bytes, libraries=libraries, calls=count)


def _decode(sizes: Sizes, paged: bool) -> Case:
    heads, kv_heads = sizes.heads
    count = sizes.graph_calls
    q = randn(sizes, count, heads, sizes.head_dim)
    shape = count * sizes.short_keys, kv_heads, sizes.head_dim
    k, v = randn(sizes, *shape), randn(sizes, *shape)
    lengths = [sizes.short_keys] * count
    expected = reference.attention(q, k, v, [1] * count, lengths)
    pages, block_table = to_pages(k, v, lengths, sizes.page_size) if paged else (None, None)
    runs = []
    for i, tokens in enumerate(reference.seq_slices(lengths)):
        if pages is not None and block_table is not None:
            keys_values, blocks = (pages[:, 0], pages[:, 1]), block_table[i : i + 1]
        else:
            keys_values, blocks = (k[tokens], v[tokens]), None
        runs.append(kernels.attend(q[i : i + 1], *keys_values, [1], lengths[:1], blocks))
    run = cuda_timing.capture_graph(runs)
    ours = Provider("ours", run, expected, reference.concatenate)
    num_bytes = float(k.nbytes + v.nbytes) / count
    libraries = library_attention.graph_decodes(q, k, v, lengths, expected)
    comparison = Comparison("us", (), max_ratio=15.0)
    return Case(ours, [comparison], num_bytes, libraries=libraries, calls=count)
