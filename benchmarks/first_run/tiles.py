"""Candidate tiles of the attention kernels, compared with the tiles in use."""

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.first_run.row import Row, rows_of_cases
from benchmarks.gpu_cases import kernels, reference
from benchmarks.gpu_cases.case import Case, CaseFactory, Comparison, Provider
from benchmarks.gpu_cases.decode import to_pages, uneven_lengths
from benchmarks.gpu_cases.sizes import Sizes, randn
from rope_core.kernels.runtime import device_properties
from rope_core.kernels.tile_configs import KIB_99, TILES, Tile, TileTable, select_tiles

HEAD_DIM = 128
"""The candidates are for heads of this size."""

TABLES: dict[str, TileTable] = {
    name: {**TILES, key: {KIB_99: tile}}
    for name, key, tile in (
        ("pages, 5 stages", ("decode", "half", "paged", 128), Tile(16, 64, 4, 5)),
        ("pages, 128 keys", ("decode", "half", "paged", 128), Tile(16, 128, 4, 3)),
        ("prefill, 64 rows", ("prefill", "half", "packed", 128), Tile(64, 64, 4, 3)),
        ("prefill, 4 stages", ("prefill", "half", "packed", 128), Tile(128, 64, 8, 4)),
        ("decode, tf32x3", ("decode", "float32", "packed", 128), Tile(16, 16, 8, 2, "tf32x3")),
        ("prefill, tf32x3", ("prefill", "float32", "packed", 128), Tile(32, 16, 8, 2, "tf32x3")),
        ("packed, 4 stages", ("decode", "half", "packed", 128), Tile(16, 64, 4, 4)),
    )
}
"""Tables that differ from TILES in one tile."""

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
    if kernel == "decode":
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

    def provider(name: str, table: TileTable) -> Provider:
        layout = "paged" if paged else "packed"
        tiles = select_tiles(table, device_properties(q.device), dtype, HEAD_DIM, layout)
        run = kernels.attend(q, *keys_values, lengths_q, lengths_k, block_table, tiles=tiles)
        return Provider(name, run, expected)

    baseline = provider("the table", TILES)
    comparison = Comparison("the table", [(baseline, 1.0)], min_ratio=MIN_SPEEDUP)
    return Case(provider("ours", table), [comparison], 0.0)
