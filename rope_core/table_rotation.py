"""Rotation of tokens by a cached table of angles: one call looks up the angles and rotates."""

from functools import lru_cache

import torch
from torch import Tensor

from rope_core import compiled
from rope_core.angles import (
    MIN_TABLE_ROWS,
    inverse_factor,
    is_table_worthwhile,
    position_table,
    table_rows,
)
from rope_core.config import RopeConfig


def has_table(rope: RopeConfig) -> bool:
    """Tell whether a rotation needs nothing but q, k and a table of angles by position."""
    return (
        rope.layout in ("half", "interleaved")
        and (rope.rounding, rope.arithmetic, rope.blocks) == ("once", "float64", 1)
        and rope.num_axes == 1
        and rope.axes is None
        and rope.learned is None
        and not rope.depends_on_length
    )


class TableRotation:
    """Rotates by the table of a rope, which grows with the positions that are rotated.

    The tables are those of the library's cache, so all ways to rotate give the same bits.

    Attributes:
        num_rows: positions in the table, from 0 on.
    """

    def __init__(self, rope: RopeConfig) -> None:
        self.rope = rope
        self.num_rows = MIN_TABLE_ROWS
        self._num_outside = 0  # positions so far that were not in the table

    def for_heads(
        self, num_heads: int, dtype: torch.dtype, inverse: bool = False
    ) -> compiled.TokenRotation:
        """Return the rotation of tokens `[T, num_heads, D]` at positions in the table."""
        num_threads = torch.get_num_threads()
        return _token_rotation(self, self.num_rows, num_heads, dtype, inverse, num_threads)

    def rotate(self, x: Tensor, positions: Tensor | None) -> tuple[Tensor, float] | None:
        """Return `x` rotated, and the largest |x|.

        Return None if a position cannot be in the table, if `positions` are not int64, or if a
        tensor is empty, not contiguous or not on the CPU.

        Args:
            x: `[B, S, H, D]` or `[T, H, D]`, float32, bfloat16 or float16.
            positions: int64 `[S]`, `[B, S]` or `[T]`; None counts from 0.
        """
        if positions is None:
            if not self.reserve(x.shape[-3]):
                return None
            positions = first_positions(self.num_rows)
        if (
            positions.dtype is not torch.int64
            or not (x.is_cpu and x.is_contiguous() and positions.is_contiguous())
            or not x.numel()
        ):
            return None
        rotation = self.for_heads(x.shape[-2], x.dtype)
        out = torch.empty_like(x)
        num_parts = len(x) if x.ndim == 4 and positions.ndim == 1 else 1  # with the same positions
        num_tokens = x.shape[:-2].numel() // num_parts
        num_bytes = x.nbytes // num_parts
        maxima = []
        for start in range(0, x.nbytes, num_bytes):
            max_abs = rotation.run(
                x.data_ptr() + start, out.data_ptr() + start, positions.data_ptr(), num_tokens
            )
            if max_abs < 0:  # in the first part, as all have the same positions
                return self.rotate(x, positions) if self.grow(positions) else None
            maxima.append(max_abs)
        return out, max(maxima, key=lambda value: (value != value, value))  # NaN is the largest

    def reserve(self, num_positions: int) -> bool:
        """Enlarge the table to at least `num_positions`; return False if it would be too large."""
        rows = table_rows(num_positions, self.rope)
        if rows is not None:
            self.num_rows = max(self.num_rows, rows)
        return rows is not None

    def grow(self, positions: Tensor) -> bool:
        """Enlarge the table to `positions`, integers of any shape, if it is worth its time.

        Args:
            positions: of a call; at least one is not in the table.

        Returns:
            Whether the table has them now.
        """
        self._num_outside += positions.numel()
        first, last = map(int, positions.aminmax())
        rows = table_rows(last + 1, self.rope)
        if first < 0 or rows is None or not is_table_worthwhile(rows, self._num_outside):
            return False
        return self.reserve(rows)


@lru_cache(maxsize=256)
def table_rotation(rope: RopeConfig) -> TableRotation | None:
    """Return the rotation by the table of a rope; None if it has no table."""
    return TableRotation(rope) if has_table(rope) else None


@lru_cache(maxsize=8)
def first_positions(num_positions: int) -> Tensor:
    """Return 0, 1, 2, ..., int64 `[num_positions]`."""
    return torch.arange(num_positions)


@lru_cache(maxsize=16)
def _token_rotation(
    table: TableRotation,
    num_rows: int,
    num_heads: int,
    dtype: torch.dtype,
    inverse: bool,
    num_threads: int,  # part of the key: a TokenRotation keeps the number of its threads
) -> compiled.TokenRotation:
    rope = table.rope
    cos, sin, _ = position_table(rope, num_rows)
    if inverse and (factor := inverse_factor(rope)) != 1:
        cos, sin = cos * factor, sin * factor
    return compiled.TokenRotation(
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
