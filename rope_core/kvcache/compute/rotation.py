"""Rotation of heads `[T, H, D]` by positions, into memory of any strides."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rope_core.angles import Angles, angles_at, key_angles
from rope_core.backends.eager_rotary import rotary_operator
from rope_core.backends.work import RotaryWork
from rope_core.config import RopeConfig
from rope_core.kvcache.plan import RowPlan


def query_angles(positions: Tensor, rope: RopeConfig) -> Angles:
    """Return the angles of queries at `positions` `[T]` or `[A, T]`."""
    return angles_at(positions, rope)


def stored_angles(positions: Tensor, rope: RopeConfig) -> Angles:
    """Return the angles of keys at `positions` `[T]` or `[A, T]`."""
    angles = key_angles(angles_at(positions, rope))
    assert isinstance(angles, Angles), "kernels compute fused angles themselves"
    return angles


def rotate_into(out: Tensor, x: Tensor, angles: Angles, rope: RopeConfig) -> None:
    """Write `x` `[T, H, D]`, rotated, to `out`.

    Args:
        out: of the shape and dtype of x, channels contiguous; it shares no memory with x.
        x: channels contiguous.
        angles: of the T tokens.
        rope: layout and rounding.
    """
    work = RotaryWork((x,), angles.cos, angles.sin, angles.scale, rope, False, (out,))
    rotary_operator(work)(work)


def shifted_queries(
    q: Tensor, row: RowPlan, rope: RopeConfig | None
) -> dict[tuple[int, ...], Tensor]:
    """Return the queries `[n, H, D]` of a row, rotated at position minus shift, for each shift."""
    if rope is None:
        return {segment.shift: q for segment in row.segments}
    positions = row.q_positions
    assert positions is not None, "the group has a rope"
    rotated: dict[tuple[int, ...], Tensor] = {}
    for segment in row.segments:
        shift = segment.shift
        if shift not in rotated:
            rotated[shift] = out = torch.empty_like(q)
            rotate_into(out, q, query_angles(moved_back(positions, shift), rope), rope)
    return rotated


def moved_back(positions: Tensor, shift: tuple[int, ...]) -> Tensor:
    """Return positions `[n]` or `[A, n]` minus a shift of each axis."""
    if not any(shift):
        return positions
    if len(set(shift)) == 1:
        return positions - shift[0]
    return positions - torch.tensor(shift, device=positions.device)[:, None]


def index_numbers(index: Sequence[int] | Tensor) -> Tensor:
    """Return the index of queries as contiguous int64 `[n]`."""
    if isinstance(index, range):
        return torch.arange(index.start, index.stop, index.step)
    return torch.as_tensor(index, dtype=torch.int64).contiguous()
