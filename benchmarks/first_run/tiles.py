"""Candidate tiles of the attention kernels, compared with the tiles in use."""

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.first_run.row import Row, rows_of_cases
from benchmarks.gpu_cases import kernels, reference
from benchmarks.gpu_cases.case import Case, CaseFactory, Comparison, Provider
from benchmarks.gpu_cases.decode import to_pages, uneven_lengths
from benchmarks.gpu_cases.sizes import Sizes, randn
from rope_core.kernels.attention_tiles import CANDIDATES, KIB_99, TILES, Tile, TileTable

HEAD_DIM = 128
"""The candidates are for heads of this size."""

PACKED = "few", "half", "packed", 128
TABLES: dict[str, TileTable] = {
    **CANDIDATES,
    "packed, 4 stages": {**TILES, PACKED: {KIB_99: Tile(16, 64, 4, 4)}},
}
MIN_SPEEDUP = 1.05
"""Smallest speedup that justifies a change of the table."""


def rows(sizes: Sizes) -> Iterator[Row]:
    """Yield a row for each candidate; a ratio above 1 means that it is faster than the table."""
    yield from rows_of_cases(cases(sizes), sizes)


def cases(sizes: Sizes) -> Iterator[tuple[str, CaseFactory]]:
    """Yield the name and the factory of each candidate's case."""
    for name, table in TABLES.items():
        ((kernel, dtype, layout, _),) = (key for key in table if table[key] is not TILES[key])
        yield f"tiles: {name}", partial(_case, sizes, table, kernel, dtype, layout == "paged")


def _case(sizes: Sizes, table: TileTable, kernel: str, dtype_name: str, paged: bool) -> Case:
    dtype = torch.float32 if dtype_name == "float32" else torch.bfloat16
    heads, kv_heads = sizes.heads
    if kernel == "few":
        lengths_k = uneven_lengths(sizes.decode_batches[0], *sizes.decode_keys)
        lengths_q = [1] * len(lengths_k)
    else:
        length = sizes.masked_length
        lengths_q = lengths_k = [length] * max(1, sizes.tokens // length)
    q = randn(sizes, sum(lengths_q), heads, HEAD_DIM, dtype=dtype)
    shape = sum(lengths_k), kv_heads, HEAD_DIM
    k, v = (randn(sizes, *shape, dtype=dtype) for _ in range(2))
    expected = reference.attention(q, k, v, lengths_q, lengths_k)
    keys_values, block_table = (k, v), None
    if paged:
        pages, block_table = to_pages(k, v, lengths_k, sizes.page_size)
        keys_values = pages[:, 0], pages[:, 1]

    def provider(name: str, tiles: TileTable) -> Provider:
        run = kernels.attend(q, *keys_values, lengths_q, lengths_k, block_table, tiles=tiles)
        return Provider(name, run, expected)

    baseline = provider("the table", TILES)
    comparison = Comparison("the table", [(baseline, 1.0)], min_ratio=MIN_SPEEDUP)
    return Case(provider("ours", table), [comparison], 0.0)
