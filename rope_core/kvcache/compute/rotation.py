"""Rotation of heads `[T, H, D]` by positions, into memory of any strides."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rope_core import compiled
from rope_core.angles import Angles, angles_at, key_angles
from rope_core.backends.eager_rotary import rotary_operator
from rope_core.backends.work import RotaryWork
from rope_core.config import RopeConfig
from rope_core.kvcache.compute.page_memory import as_tensor
from rope_core.kvcache.plan import IntArray, LayerPlan


class CompiledRotation(NamedTuple):
    """What compiled code needs to know of a rope. Without a rope, it copies."""

    num_pairs: int
    start: int
    """The first rotated channel."""

    interleaved: bool


@lru_cache(maxsize=256)
def compiled_rotation(rope: RopeConfig | None) -> CompiledRotation | None:
    """Return how compiled code rotates by a rope, None if it cannot."""
    module = compiled.extension()
    if module is None:
        return None
    if rope is None:
        return CompiledRotation(0, 0, False)
    if rope.is_general or rope.rotary_dim > module.MAX_WIDTH:
        return None
    start = rope.head_dim - rope.rotary_dim if rope.trailing else 0
    return CompiledRotation(rope.half, start, rope.layout == "interleaved")


COPY = CompiledRotation(0, 0, False)
"""Rotates no channel."""


def rotate_at(
    address: int,
    strides: tuple[int, int],
    x: Tensor,
    tokens: tuple[int, int],
    angles: Angles | None,
    first_angle: int,
    rotation: CompiledRotation,
) -> None:
    """Write tokens of `x`, rotated, to an address, by compiled code.

    Args:
        address: where the first head of the first token goes.
        strides: elements from token to token, and from head to head.
        x: `[T, H, D]`, channels contiguous.
        tokens: the first token, and how many.
        angles: float32, contiguous; None to copy.
        first_angle: the row of the first token.
        rotation: of the rope of the angles.
    """
    module = compiled.extension()
    assert module is not None, "checked by compiled_rotation"
    cos = sin = 0
    if angles is not None:
        row = first_angle * 4 * rotation.num_pairs
        cos, sin = angles.cos.data_ptr() + row, angles.sin.data_ptr() + row
    _, num_heads, head_dim = x.shape
    token_stride, head_stride, _ = x.stride()
    first, count = tokens
    module.rotate(
        *(cos, sin, count, rotation.num_pairs, num_heads, head_dim, rotation.start),
        *(compiled.DTYPES[x.dtype], rotation.interleaved, False, torch.get_num_threads()),
        x.data_ptr() + first * token_stride * x.element_size(),
        *(token_stride, head_stride, address, *strides, count),
    )


def query_angles(positions: IntArray, rope: RopeConfig, device: torch.device) -> Angles:
    """Return the angles of queries at `positions` `[T]` or `[A, T]`."""
    angles = angles_at(as_tensor(positions).to(device), rope)
    return angles.map(torch.Tensor.contiguous)


def stored_angles(positions: IntArray, rope: RopeConfig, device: torch.device) -> Angles:
    """Return the angles of keys at `positions` `[T]` or `[A, T]`."""
    angles = key_angles(query_angles(positions, rope, device))
    assert isinstance(angles, Angles), "kernels compute fused angles themselves"
    return angles


def rotate_into(out: Tensor, x: Tensor, angles: Angles, rope: RopeConfig) -> None:
    """Write `x` `[T, H, D]`, rotated by operators of torch, to `out`.

    Args:
        out: of the shape and dtype of x, channels contiguous; it shares no memory with x.
        x: channels contiguous.
        angles: of the T tokens.
        rope: layout and rounding.
    """
    work = RotaryWork((x,), angles.cos, angles.sin, angles.scale, rope, False, (out,))
    rotary_operator(work)(work)


class Queries:
    """The queries of a plan, rotated at position minus shift for each shift that is asked for."""

    def __init__(self, q: Tensor, plan: LayerPlan) -> None:
        """Keep the queries `[Tq, H, D]`, contiguous, not rotated, of a plan."""
        self._q = q
        self._rope = plan.group.rope
        self._positions = plan.q_positions
        self._rotated: dict[tuple[int, ...], Tensor] = {}
        shifts = {segment.shift for row in plan.rows for segment in row.segments}
        self._is_shared = len(shifts) == 1  # by all rows

    def rotated(self, rows: slice, shift: tuple[int, ...]) -> Tensor:
        """Return the queries of a row `[n, H, D]`, contiguous, for keys with this shift."""
        tensor, first = self.find(rows, shift)
        return tensor[first : first + rows.stop - rows.start]

    def find(self, rows: slice, shift: tuple[int, ...]) -> tuple[Tensor, int]:
        """Return a contiguous tensor that has these queries, and the number of the first."""
        if self._rope is None:
            return self._q, rows.start
        if not self._is_shared:
            return self._rotate(rows, shift), 0
        if shift not in self._rotated:
            self._rotated[shift] = self._rotate(slice(0, len(self._q)), shift)
        return self._rotated[shift], rows.start

    def _rotate(self, rows: slice, shift: tuple[int, ...]) -> Tensor:
        rope = self._rope
        assert rope is not None, "checked by rotated"
        assert self._positions is not None, "the group has a rope"
        q = self._q[rows]
        out = torch.empty_like(q)
        angles = query_angles(moved_back(self._positions[..., rows], shift), rope, q.device)
        rotation = compiled_rotation(rope) if q.is_cpu else None
        if rotation is None:
            rotate_into(out, q, angles, rope)
        else:
            strides = out.stride(0), out.stride(1)
            rotate_at(out.data_ptr(), strides, q, (0, len(q)), angles, 0, rotation)
        return out


def moved_back(positions: IntArray, shift: tuple[int, ...]) -> IntArray:
    """Return positions `[n]` or `[A, n]` minus a shift of each axis."""
    if not any(shift):
        return positions
    moved: IntArray = positions - (shift[0] if positions.ndim == 1 else np.array(shift)[:, None])
    return moved
