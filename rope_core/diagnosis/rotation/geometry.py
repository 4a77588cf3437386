"""Which channels are rotated, and in which pairs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rope_core.diagnosis.calls import RotaryCall

GeometryKey = tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Geometry:
    """after[write] = cos * before[cos_read] + sign * sin * before[sin_read], angle by angle.

    int64 `[m, n]` each: angle i decides m channels, which are two of a pair, or one (XD-RoPE).
    """

    write: Tensor
    cos_read: Tensor
    sin_read: Tensor
    sign: Tensor
    """float64: -1 of the first channel of a pair, 1 of the second."""

    rest_write: Tensor
    """int64 `[D - m n]`: channels that pass through."""

    rest_read: Tensor
    """Where they come from."""


def geometry_key(call: RotaryCall) -> GeometryKey:
    """Return what decides the geometry of a call, and the tokens that share a position."""
    rope = call.rope
    return (
        *(rope.head_dim, rope.rotary_dim, rope.layout, rope.trailing, rope.blocks),
        *(len(rope.frequency_table.inv_freq), call.table_layout, call.permutation),
        *(call.position_axis, call.times == 0 and rope.layout == "interleaved_to_half"),
    )


def geometry(call: RotaryCall) -> Geometry:
    """Return the geometry of a call."""
    rope = call.rope
    width = rope.rotary_dim // rope.blocks
    start = rope.head_dim - rope.rotary_dim if rope.trailing else 0
    parts = [_block(call, width, start + i * width) for i in range(rope.blocks)]
    angles = len(rope.frequency_table.inv_freq) // rope.blocks
    write, cos_read, sin_read, sign, angle = (torch.cat(t) for t in zip(*parts, strict=True))
    number = torch.arange(rope.blocks).repeat_interleave(width) * angles
    order = (angle + number).argsort(stable=True)  # channels of one angle are neighbours
    count = len(order) // len(rope.frequency_table.inv_freq)
    write, cos_read, sin_read, sign = (
        t[order].view(-1, count).mT.contiguous() for t in (write, cos_read, sin_read, sign)
    )
    inside = torch.zeros(rope.head_dim, dtype=torch.bool)
    inside[write.flatten()] = True
    rest = (~inside).nonzero().flatten()
    rest_write = rest
    if call.permutation is not None:  # channel c is permutation[c] of the call
        goes_to = torch.tensor(call.permutation).argsort()
        write, rest_write = goes_to[write], goes_to[rest]
    return Geometry(
        write=write,
        cos_read=cos_read,
        sin_read=sin_read,
        sign=sign,
        rest_write=rest_write,
        rest_read=rest,
    )


def _block(call: RotaryCall, width: int, start: int) -> tuple[Tensor, ...]:
    """Return write, cos_read, sin_read, sign and angle of the channels of one block, `[width]`."""
    rope, half = call.rope, width // 2
    channel = torch.arange(width)
    by_halves, by_neighbours = channel % half, channel // 2
    if rope.layout in ("half", "interleaved_to_half"):
        partner = (channel + half) % width
        sign = torch.where(channel < half, -1.0, 1.0)
        angle = by_halves
    else:
        partner = channel + 1 - 2 * (channel % 2)
        sign = torch.where(channel % 2 == 0, -1.0, 1.0)
        angle = by_halves if rope.layout == "interleaved_tiled" else by_neighbours
    if call.table_layout is not None:
        angle = by_halves if call.table_layout == "half" else by_neighbours
    if len(rope.frequency_table.inv_freq) * 2 != rope.rotary_dim:
        angle = channel  # each channel has its own
    cos_read, sin_read = channel, partner
    if rope.layout == "interleaved_to_half" and call.times:  # nothing moves if nothing rotates
        source = torch.cat((channel[0::2], channel[1::2]))
        cos_read, sin_read = source[cos_read], source[sin_read]
        if call.table_layout == "half":  # halves of what is read, not of what is written
            angle = source % half
    return channel + start, cos_read + start, sin_read + start, sign.double(), angle


def energy_and_products(
    before: Tensor, after: Tensor, shape: Geometry
) -> tuple[Tensor, Tensor, float, float]:
    """Fit cosine and sine of each token and angle by least squares.

    Args:
        before: float64 `[T, H, D]`.
        after: as before.
        shape: which channels belong together.

    Returns:
        z complex128 `[T, n]`, weights float64 `[T, n]`, the energy of `after` that no z explains,
        and the energy of the channels that pass through.
    """
    x = before[..., shape.cos_read]  # [T, H, m, n]
    r = before[..., shape.sin_read] * shape.sign
    y = after[..., shape.write]
    xx, rr, xr = (t.sum((1, 2)) for t in (x * x, r * r, x * r))
    yx, yr = (t.sum((1, 2)) for t in (y * x, y * r))
    mean, spread = (xx + rr) / 2, ((xx - rr).square() / 4 + xr.square()).sqrt()
    weights = (mean - spread).clamp_min(0)  # the smaller eigenvalue of [[xx, xr], [xr, rr]]
    determinant = xx * rr - xr * xr
    decided = determinant > 1e-12 * mean * mean
    weights = weights.where(decided, 0)
    inverse = torch.where(decided, 1 / determinant.where(decided, 1), 0)
    cos, sin = (rr * yx - xr * yr) * inverse, (xx * yr - xr * yx) * inverse
    fitted = cos * yx + sin * yr
    energy = y.square().sum((1, 2))
    misfit = (energy - fitted).where(decided, 0).clamp_min(0)
    silent = energy.where(mean == 0, 0)  # energy where nothing went in
    rest_in, rest_out = before[..., shape.rest_read], after[..., shape.rest_write]
    lost = float((rest_out - rest_in).square().sum())
    rest = float(rest_in.square().sum())
    return torch.complex(cos, sin), weights, float((misfit + silent).sum()) + lost, rest


def rotate_by(before: Tensor, z: Tensor, shape: Geometry) -> Tensor:
    """Return `before` `[T, H, D]`, rotated by z `[T, n]`, in the dtype of `before`."""
    out = torch.empty_like(before)
    out[..., shape.rest_write] = before[..., shape.rest_read]
    cos, sin = z.real.to(before.dtype)[:, None], z.imag.to(before.dtype)[:, None]
    for write, cos_read, sin_read, sign in zip(
        shape.write, shape.cos_read, shape.sin_read, shape.sign.to(before.dtype), strict=True
    ):
        out[..., write] = before[..., cos_read] * cos + before[..., sin_read] * (sin * sign)
    return out
