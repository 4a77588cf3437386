"""Rotation by position: angles in float64, cosine and sine float32, one rounding of the result."""

from functools import lru_cache

import torch
from torch import Tensor

from rope_core import ragged
from rope_core.backends import Rotation, select
from rope_core.calls import CosSin, Rotate, Rotated, Shift, Table
from rope_core.config import RopeConfig
from rope_core.frequencies import inv_freq
from rope_core.inference import inference

TABLE_ELEMENTS = 2**20
"""Most cosines that one cached table holds; positions beyond it are computed for each call."""

Angles = tuple[Tensor, Tensor]  # cosine and sine, float32 [tokens, half]


@inference
def cos_sin(call: CosSin) -> Table:
    """Return cosine and sine of every pair's angle at the positions of `call`."""
    shape = (*call.positions.shape, call.rope.half)
    cos, sin = angles(call.positions.reshape(-1), call.rope)
    return Table(cos.view(shape), sin.view(shape))


@inference
def rotate(call: Rotate, out: Rotated | None = None) -> Rotated:
    """Rotate q and k.

    Args:
        call: what to rotate; its tensors are not written to.
        out: where to write: contiguous tensors of the shapes and dtypes of `call`, which share no
            memory with it. New ones where None.
    """
    q_out, k_out = (out.q, out.k) if out is not None else (None, None)
    at = token_angles(call.like, call.positions, call.cu_seqlens, call.rope)
    return Rotated(
        None if call.q is None else rotate_by(call.q, at, call.rope, call.inverse, q_out),
        None if call.k is None else rotate_by(call.k, at, call.rope, call.inverse, k_out),
    )


@inference
def shift(call: Shift, out: Rotated | None = None) -> Rotated:
    """Move rotated keys by `delta` positions: R_delta R_p = R_(p + delta).

    The move is the same wherever the keys are, as long as the frequencies are.
    """
    delta = call.delta if call.delta.ndim else call.delta.expand(call.k.shape[-3])
    return rotate(Rotate(None, call.k, call.rope, positions=delta), out)


def token_angles(
    x: Tensor, positions: Tensor | None, cu_seqlens: Tensor | None, rope: RopeConfig
) -> Angles:
    """Return the angles of the tokens of `x`, batch and sequence laid end to end."""
    if positions is None and cu_seqlens is None:
        cos, sin = _counted(x.shape[-3], rope, x.device)
        rows = x.shape[0] if x.ndim == 4 else 1
        return (cos, sin) if rows == 1 else (cos.repeat(rows, 1), sin.repeat(rows, 1))
    return angles(ragged.token_positions(x, positions, cu_seqlens), rope)


def angles(positions: Tensor, rope: RopeConfig) -> Angles:
    """Return cosine and sine at `positions` `[tokens]`."""
    if positions.dtype.is_floating_point or positions.device.type != "cpu" or not len(positions):
        return _compute(positions, rope)
    first, last = map(int, positions.aminmax())
    rows = _rows(last + 1, rope)
    if first < 0 or rows is None or rows > max(1024, 64 * len(positions)):
        return _compute(positions, rope)
    cos, sin = _table(rope, rows)
    return cos.index_select(0, positions), sin.index_select(0, positions)


def rotate_by(x: Tensor, at: Angles, rope: RopeConfig, inverse: bool, out: Tensor | None) -> Tensor:
    """Rotate `x` by the angles of its tokens into `out`, or into a new tensor."""
    if out is None:
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    cos, sin = at
    work = Rotation(x.flatten(0, -3), cos, sin, rope.layout, inverse, out.flatten(0, -3))
    select(work).run(work)
    return out


def _counted(length: int, rope: RopeConfig, device: torch.device) -> Angles:
    rows = _rows(length, rope) if device.type == "cpu" else None
    if rows is None:
        return _compute(torch.arange(length, device=device), rope)
    cos, sin = _table(rope, rows)
    return cos[:length], sin[:length]


def _rows(needed: int, rope: RopeConfig) -> int | None:
    """Return the length of the table that has `needed` positions, None where none may be."""
    rows = max(256, 1 << (needed - 1).bit_length()) if needed > 0 else 256
    return rows if rows * rope.half <= TABLE_ELEMENTS else None


@lru_cache(maxsize=16)
def _table(rope: RopeConfig, rows: int) -> Angles:
    return _compute(torch.arange(rows), rope)


def _compute(positions: Tensor, rope: RopeConfig) -> Angles:
    radians = positions.double()[:, None] * inv_freq(rope).to(positions.device)
    return radians.cos().float(), radians.sin().float()
