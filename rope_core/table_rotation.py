"""Rotation of tokens by a cached table of angles, for code that rotates many small calls."""

from functools import lru_cache

import torch
from torch import Tensor

from rope_core.angles import (
    MIN_TABLE_ROWS,
    USUAL_TABLE_ROWS,
    is_table_worthwhile,
    position_table,
    table_rows,
)
from rope_core.compiled import TokenRotation
from rope_core.config import RopeConfig
from rope_core.rotary import inverse_factor


def has_table(rope: RopeConfig) -> bool:
    """Tell whether a table of angles by position is all that a rotation needs beside q and k."""
    return (
        rope.layout in ("half", "interleaved")
        and (rope.rounding, rope.arithmetic, rope.blocks) == ("once", "float64", 1)
        and rope.num_axes == 1
        and rope.axes is None
        and rope.learned is None
        and "length" not in dict(rope.parameters)  # frequencies change with the length of a call
    )


class TableRotation:
    """Rotates by the table of a rope, which grows with the positions that are rotated.

    The tables are those of the library's cache, so that answers have the same bits.
    """

    def __init__(self, rope: RopeConfig) -> None:
        self.rope = rope
        self.num_rows = table_rows(USUAL_TABLE_ROWS, rope) or MIN_TABLE_ROWS
        self._num_outside = 0

    def of(self, num_heads: int, dtype: torch.dtype, inverse: bool = False) -> TokenRotation:
        """Return the rotation of tokens `[T, H, D]` at positions below `num_rows`."""
        return _token_rotation(self.rope, self.num_rows, num_heads, dtype, inverse)

    def reserve(self, num_positions: int) -> bool:
        """Make the table as large; return False if a table cannot be."""
        rows = table_rows(num_positions, self.rope)
        if rows is not None:
            self.num_rows = max(self.num_rows, rows)
        return rows is not None

    def grow(self, positions: Tensor) -> None:
        """Note that `positions`, integers, are not all in the table; enlarge it when it is due."""
        self._num_outside += positions.numel()
        first, last = map(int, positions.aminmax())
        rows = table_rows(last + 1, self.rope)
        if first >= 0 and rows is not None and is_table_worthwhile(rows, self._num_outside):
            self.reserve(rows)


@lru_cache(maxsize=32)
def _token_rotation(
    rope: RopeConfig, num_rows: int, num_heads: int, dtype: torch.dtype, inverse: bool
) -> TokenRotation:
    cos, sin, _ = position_table(rope, num_rows)
    if inverse and (factor := inverse_factor(rope)) != 1:
        cos, sin = cos * factor, sin * factor
    return TokenRotation(
        cos,
        sin,
        num_heads=num_heads,
        head_dim=rope.head_dim,
        rotary_dim=rope.rotary_dim,
        dtype=dtype,
        layout=rope.layout,
        inverse=inverse,
        trailing=rope.trailing,
    )
