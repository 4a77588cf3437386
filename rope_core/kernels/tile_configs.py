"""Tile sizes of the attention kernels, by GPU, dtype, layout and width of heads alone.

The choice never depends on the batch, so that the bits of an answer do not either. A tile of a mask
or of positions takes registers and shared memory as a tile of keys does, so calls with these have
smaller tiles.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import torch

from rope_core.kernels.device_properties import Card
from rope_core.kernels.launch_args import block_of

WIDTHS = frozenset({*range(16, 257, 16), 72, 88})
"""Widths of heads that have kernels: 72 and 88 are those of SigLIP's and Llama 4's vision."""

MLA_WIDTHS = 192, 128
"""Widths of keys and of values in multi-head latent attention: the only ones that differ."""

OLDEST_ARCH = 80
"""Older GPUs have no matrix units for bfloat16."""

KIB_99, KIB_163, KIB_227 = 101_376, 166_912, 232_448
"""Shared memory of a block in bytes: of sm_86, 89 and 120; of sm_80; of sm_90 and 100."""


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


Fits = Mapping[int, Tile]
"""Tiles by the shared memory of a block, in bytes, that a GPU must have for them."""

TileTable = Mapping[tuple[str, str, str, int], Fits]
"""By kernel (prefill, few, some), dtype (half, float32), layout (packed, paged, masked), width."""


def _by_layout(
    kernel: str, dtype: str, plain: Mapping[int, Fits], masked: Mapping[int, Fits]
) -> Any:
    return {
        (kernel, dtype, layout, width): fits
        for layout, by_width in (("packed", plain), ("paged", plain), ("masked", masked))
        for width, fits in by_width.items()
    }


TILES: TileTable = {
    **_by_layout(
        "prefill",
        "half",
        {
            64: {KIB_99: Tile(128, 128, 8, 3)},
            128: {KIB_99: Tile(128, 64, 8, 3)},
            256: {KIB_99: Tile(64, 32, 8, 2), KIB_227: Tile(64, 64, 8, 2)},
        },
        {
            64: {KIB_99: Tile(64, 64, 8, 2)},
            128: {KIB_99: Tile(64, 32, 8, 2)},
            256: {KIB_99: Tile(32, 32, 8, 2)},
        },
    ),
    **_by_layout(
        "few",
        "half",
        {
            64: {KIB_99: Tile(16, 64, 4, 3)},
            128: {KIB_99: Tile(16, 64, 4, 3)},
            256: {KIB_99: Tile(16, 32, 8, 3)},
        },
        {
            64: {KIB_99: Tile(16, 64, 4, 3)},
            128: {KIB_99: Tile(16, 64, 4, 2)},
            256: {KIB_99: Tile(16, 16, 8, 2)},
        },
    ),
    **_by_layout(
        "some",
        "half",
        {
            64: {KIB_99: Tile(64, 64, 4, 3)},
            128: {KIB_99: Tile(64, 64, 4, 3)},
            256: {KIB_99: Tile(64, 32, 8, 2), KIB_163: Tile(64, 32, 8, 3)},
        },
        {
            64: {KIB_99: Tile(64, 32, 4, 2)},
            128: {KIB_99: Tile(64, 32, 8, 2)},
            256: {KIB_99: Tile(64, 32, 8, 2)},
        },
    ),
    **_by_layout(
        "prefill",
        "float32",
        {
            64: {KIB_99: Tile(32, 32, 8, 2)},
            128: {KIB_99: Tile(32, 16, 8, 2)},
            256: {KIB_99: Tile(16, 16, 8, 2)},
        },
        {
            64: {KIB_99: Tile(32, 32, 8, 2)},
            128: {KIB_99: Tile(32, 16, 8, 2)},
            256: {KIB_99: Tile(16, 16, 8, 2)},
        },
    ),
    **_by_layout(
        "few",
        "float32",
        {
            64: {KIB_99: Tile(16, 32, 8, 2)},
            128: {KIB_99: Tile(16, 16, 8, 2)},
            256: {KIB_99: Tile(16, 16, 8, 2)},
        },
        {
            64: {KIB_99: Tile(16, 32, 8, 2)},
            128: {KIB_99: Tile(16, 16, 8, 2)},
            256: {KIB_99: Tile(16, 16, 8, 2)},
        },
    ),
    **_by_layout(
        "some",
        "float32",
        {
            64: {KIB_99: Tile(64, 32, 8, 2)},
            128: {KIB_99: Tile(32, 16, 8, 2)},
            256: {KIB_99: Tile(16, 16, 8, 2)},
        },
        {
            64: {KIB_99: Tile(32, 32, 8, 2)},
            128: {KIB_99: Tile(32, 16, 8, 2)},
            256: {KIB_99: Tile(16, 16, 8, 2)},
        },
    ),
}


def tile_of(
    kernel: str, card: Card, dtype: torch.dtype, width: int, layout: str, tiles: TileTable = TILES
) -> Tile | None:
    """Return the tile of a kernel: of those that fit the card, the one for the most memory.

    Args:
        kernel: prefill, few or some.
        card: where it runs.
        dtype: of q.
        width: of keys or of values, whichever are wider.
        layout: masked where there is a mask or positions are in tensors; else paged or packed.
        tiles: the table.
    """
    kind = "float32" if dtype == torch.float32 else "half"
    fits = tiles.get((kernel, kind, layout, max(64, block_of(width))), {})
    least = max((least for least in fits if least <= card.shared_bytes), default=None)
    return None if least is None else fits[least]


@lru_cache
def usual_tiles(card: Card, dtype: torch.dtype, width: int, layout: str) -> tuple[Tile | None, ...]:
    """Return the tiles of few, some and prefill by the usual table, as `tile_of` does."""
    return tuple(
        tile_of(kernel, card, dtype, width, layout) for kernel in ("few", "some", "prefill")
    )


@lru_cache
def why_no_tile(card: Card, dtype: torch.dtype, head_dim: int, value_dim: int) -> str | None:
    """Return why kernels of attention do not run on a card, None if they do."""
    if card.arch < OLDEST_ARCH:
        return f"the GPU is older than compute capability {OLDEST_ARCH / 10}"
    if (head_dim, value_dim) != MLA_WIDTHS and (head_dim != value_dim or head_dim not in WIDTHS):
        return f"there are no kernels for heads of width {head_dim} and values of {value_dim}"
    for kernel, layout in product(("prefill", "few", "some"), ("packed", "paged", "masked")):
        if tile_of(kernel, card, dtype, max(head_dim, value_dim), layout) is None:
            return f"heads of width {head_dim} in {dtype} do not fit the shared memory of the GPU"
    return None


CANDIDATES: Mapping[str, TileTable] = {
    name: {**TILES, key: {KIB_99: tile}}
    for name, key, tile in (
        ("pages, 5 stages", ("few", "half", "paged", 128), Tile(16, 64, 4, 5)),
        ("pages, 128 keys", ("few", "half", "paged", 128), Tile(16, 128, 4, 3)),
        ("prefill, 64 rows", ("prefill", "half", "packed", 128), Tile(64, 64, 4, 3)),
        ("prefill, 4 stages", ("prefill", "half", "packed", 128), Tile(128, 64, 8, 4)),
        ("few, tf32x3", ("few", "float32", "packed", 128), Tile(16, 16, 8, 2, "tf32x3")),
        ("prefill, tf32x3", ("prefill", "float32", "packed", 128), Tile(32, 16, 8, 2, "tf32x3")),
    )
}
"""Tables that differ from TILES in one tile, for measuring whether it is the better one."""
