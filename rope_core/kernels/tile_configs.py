"""Tile sizes of the attention kernels, by GPU, dtype, layout and width of heads alone.

The choice does not depend on the batch, so that the bits of an answer do not either. A tile of a
mask or of positions takes registers and shared memory as a tile of keys does, so that calls with
these have smaller tiles.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from typing import Any

import torch

from rope_core.kernels.block_sizes import block_of
from rope_core.kernels.head_dims import HEAD_DIMS, MLA_HEAD_DIMS
from rope_core.kernels.runtime import DeviceProperties

MIN_ARCH = 80
"""Older GPUs have no matrix units for bfloat16."""

KIB_99, KIB_163, KIB_227 = 101_376, 166_912, 232_448
"""Shared memory of a block in bytes: of sm_86, 89 and 120; of sm_80; of sm_90 and 100."""

UNMASKED, MASKED = ("packed", "paged"), ("masked",)
LAYOUTS = UNMASKED + MASKED


@dataclass(frozen=True, slots=True)
class Tile:
    """Tile sizes of a kernel, and how it is compiled."""

    block_m: int  # rows: queries times the heads of a group
    block_n: int  # keys
    num_warps: int
    num_stages: int
    precision: str = "ieee"  # of products of float32

    def constants(self) -> dict[str, Any]:
        """Return the tile as constants of a kernel."""
        return {"BLOCK_M": self.block_m, "BLOCK_N": self.block_n, "PRECISION": self.precision}


Tiles = tuple[Tile, Tile, Tile]
"""Of decode and append, which are two tiles of the decode kernel, and of prefill."""

TileTable = Mapping[tuple[str, str, str, int], Mapping[int, Tile]]
"""By kernel (decode, append, prefill), dtype (half, float32), layout (one of LAYOUTS), width; then
by the shared memory of a block, in bytes, that a GPU must have for the tile."""


def _table(*rows: tuple[str, str, Sequence[str], Sequence[int], int, Tile]) -> TileTable:
    """Return the table of rows: kernel, dtype, layouts, widths, shared memory, tile."""
    table: dict[tuple[str, str, str, int], dict[int, Tile]] = {}
    for kernel, dtype, layouts, widths, memory, tile in rows:
        for layout, width in product(layouts, widths):
            table.setdefault((kernel, dtype, layout, width), {})[memory] = tile
    return table


TILES = _table(
    ("prefill", "half", UNMASKED, (64,), KIB_99, Tile(128, 128, 8, 3)),
    ("prefill", "half", UNMASKED, (128,), KIB_99, Tile(128, 64, 8, 3)),
    ("prefill", "half", UNMASKED, (256,), KIB_99, Tile(64, 32, 8, 2)),
    ("prefill", "half", UNMASKED, (256,), KIB_227, Tile(64, 64, 8, 2)),
    ("prefill", "half", MASKED, (64,), KIB_99, Tile(64, 64, 8, 2)),
    ("prefill", "half", MASKED, (128,), KIB_99, Tile(64, 32, 8, 2)),
    ("prefill", "half", MASKED, (256,), KIB_99, Tile(32, 32, 8, 2)),
    ("prefill", "float32", LAYOUTS, (64,), KIB_99, Tile(32, 32, 8, 2)),
    ("prefill", "float32", LAYOUTS, (128,), KIB_99, Tile(32, 16, 8, 2)),
    ("prefill", "float32", LAYOUTS, (256,), KIB_99, Tile(16, 16, 8, 2)),
    ("append", "half", UNMASKED, (64, 128), KIB_99, Tile(64, 64, 4, 3)),
    ("append", "half", UNMASKED, (256,), KIB_99, Tile(64, 32, 8, 2)),
    ("append", "half", UNMASKED, (256,), KIB_163, Tile(64, 32, 8, 3)),
    ("append", "half", MASKED, (64,), KIB_99, Tile(64, 32, 4, 2)),
    ("append", "half", MASKED, (128, 256), KIB_99, Tile(64, 32, 8, 2)),
    ("append", "float32", UNMASKED, (64,), KIB_99, Tile(64, 32, 8, 2)),
    ("append", "float32", MASKED, (64,), KIB_99, Tile(32, 32, 8, 2)),
    ("append", "float32", LAYOUTS, (128,), KIB_99, Tile(32, 16, 8, 2)),
    ("append", "float32", LAYOUTS, (256,), KIB_99, Tile(16, 16, 8, 2)),
    ("decode", "half", UNMASKED, (64, 128), KIB_99, Tile(16, 64, 4, 3)),
    ("decode", "half", UNMASKED, (256,), KIB_99, Tile(16, 32, 8, 3)),
    ("decode", "half", MASKED, (64,), KIB_99, Tile(16, 64, 4, 3)),
    ("decode", "half", MASKED, (128,), KIB_99, Tile(16, 64, 4, 2)),
    ("decode", "half", MASKED, (256,), KIB_99, Tile(16, 16, 8, 2)),
    ("decode", "float32", LAYOUTS, (64,), KIB_99, Tile(16, 32, 8, 2)),
    ("decode", "float32", LAYOUTS, (128, 256), KIB_99, Tile(16, 16, 8, 2)),
)


def select_tiles(
    table: TileTable, properties: DeviceProperties, dtype: torch.dtype, width: int, layout: str
) -> Tiles | None:
    """Return the tiles of decode, append and prefill, None where one does not fit the GPU.

    Of the tiles of a kernel that fit, this is the one for the most memory.

    Args:
        table: all tiles.
        properties: of the GPU that runs the kernels.
        dtype: of q.
        width: of keys or of values, whichever are wider.
        layout: masked where there is a mask or positions are in tensors; else paged or packed.
    """
    tiles = []
    for kernel in ("decode", "append", "prefill"):
        dtype_name = "float32" if dtype == torch.float32 else "half"
        by_memory = table.get((kernel, dtype_name, layout, max(64, block_of(width))), {})
        fitting = [size for size in by_memory if size <= properties.max_shared_mem]
        if not fitting:
            return None
        tiles.append(by_memory[max(fitting)])
    return tiles[0], tiles[1], tiles[2]


default_tiles = lru_cache(partial(select_tiles, TILES))
"""`select_tiles` of TILES."""


@lru_cache
def why_no_tile(
    properties: DeviceProperties, dtype: torch.dtype, head_dim: int, value_dim: int
) -> str | None:
    """Return why kernels of attention do not run on a GPU, None if they do."""
    if properties.arch < MIN_ARCH:
        return f"the GPU is older than compute capability {MIN_ARCH / 10}"
    is_listed = head_dim == value_dim and head_dim in HEAD_DIMS
    if not is_listed and (head_dim, value_dim) != MLA_HEAD_DIMS:
        return f"there are no kernels for heads of width {head_dim} and values of {value_dim}"
    width = max(head_dim, value_dim)
    if any(default_tiles(properties, dtype, width, layout) is None for layout in LAYOUTS):
        return f"heads of width {head_dim} in {dtype} do not fit the shared memory of the GPU"
    return None
