"""Other tiles of the kernels of attention, over those of the table."""

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.first_run.row import Row, rows_of_cases
from benchmarks.gpu_cases import kernels, truth
from benchmarks.gpu_cases.case import Case, Make, Over, Side
from benchmarks.gpu_cases.decode import in_pages, uneven
from benchmarks.gpu_cases.sizes import Sizes, randn
from rope_core.kernels.runtime import device_properties
from rope_core.kernels.tile_configs import KIB_99, TILES, Tile, TileTable, select_tiles

WIDTH = 128
"""Of the heads that the candidates are for."""

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

WORTH_IT = 1.05
"""Least gain for which a tile would be changed."""


def rows(sizes: Sizes) -> Iterator[Row]:
    """Yield a row for each candidate; a ratio over 1 means that it is faster than the table's."""
    yield from rows_of_cases(cases(sizes), sizes)


def cases(sizes: Sizes) -> Iterator[tuple[str, Make]]:
    """Yield a call of the kernel of each candidate."""
    for name, table in TABLES.items():
        ((kernel, dtype, layout, _),) = (key for key in table if table[key] is not TILES[key])
        yield f"tiles: {name}", partial(_case, sizes, table, kernel, dtype, layout == "paged")


def _case(sizes: Sizes, table: TileTable, kernel: str, dtype_name: str, paged: bool) -> Case:
    dtype = torch.float32 if dtype_name == "float32" else torch.bfloat16
    heads, kv_heads = sizes.heads
    if kernel == "decode":
        lengths_k = uneven(sizes.batches[0], *sizes.cached)
        lengths_q = [1] * len(lengths_k)
    else:
        length = sizes.masked
        lengths_q = lengths_k = [length] * max(1, sizes.tokens // length)
    q = randn(sizes, sum(lengths_q), heads, WIDTH, dtype=dtype)
    shape = sum(lengths_k), kv_heads, WIDTH
    k, v = (randn(sizes, *shape, dtype=dtype) for _ in range(2))
    expected = truth.attention(q, k, v, lengths_q, lengths_k)
    keys, blocks = (k, v), None
    if paged:
        slab, blocks = in_pages(k, v, lengths_k, sizes.page_size)
        keys = slab[:, 0], slab[:, 1]

    def side(name: str, table: TileTable) -> Side:
        layout = "paged" if paged else "packed"
        tiles = select_tiles(table, device_properties(q.device), dtype, WIDTH, layout)
        run = kernels.attend(q, *keys, lengths_q, lengths_k, blocks, tiles=tiles)
        return Side(name, run, expected)

    over = Over("the table", [(side("the table", TILES), 1.0)], least=WORTH_IT)
    return Case(side("own", table), [over], 0.0)
