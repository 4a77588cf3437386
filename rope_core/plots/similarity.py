"""How alike rotated vectors are: means over all vectors, exact at every whole position."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rope_core.angles import xpos_scale
from rope_core.config import RopeConfig
from rope_core.layouts import deinterleave, expand_to_channels, rotate_half
from rope_core.plots.envelope import Envelope, make_envelope

MAX_ANGLES = 2**25
"""Largest number of angles that a curve takes: positions times channels."""

CHUNK = 2**14
"""Positions that are computed at a time."""


def last_position(rope: RopeConfig, length: int | None) -> int:
    """Return the last position of a curve: `length`, or less if that takes too long."""
    default = 65_536 if rope.num_axes == 1 else 1_024
    return max(2, min(length or default, MAX_ANGLES // rope.head_dim))


def self_score(rope: RopeConfig, last: int) -> Envelope:
    """Return the score of a query with an equal key, by their distance, as a share of distance 0.

    The mean over all vectors with as much energy in each channel. The key is at position 0.
    """
    num_angles = len(rope.inv_freq)
    passing = rope.head_dim - rope.rotary_dim

    def at(positions: Tensor) -> Tensor:
        cos = _angles(rope, positions).cos()
        if rope.rope_type == "xpos":
            cos = cos * xpos_scale(positions, rope, is_shift=True)
        return (cos.sum(1) * (rope.rotary_dim / num_angles) + passing) / rope.head_dim

    return make_envelope([at(positions) for positions in _chunks(last)])


def rotated_cosine(rope: RopeConfig, other: RopeConfig, last: int) -> Envelope:
    """Return the cosine of a vector rotated by `rope` and the same vector rotated by `other`.

    The mean over all vectors with as much energy in each channel; both have the same head_dim.
    """
    cos_cos, cos_sin, sin_cos, sin_sin = _products(_terms(rope), _terms(other))
    halves = ((-1, cos_cos + sin_sin, sin_cos - cos_sin), (1, cos_cos - sin_sin, sin_cos + cos_sin))

    def at(positions: Tensor) -> Tensor:
        angles, others = _padded_angles(rope, positions), _padded_angles(other, positions)
        total = torch.zeros(len(positions), dtype=torch.float64)
        for sign, of_cos, of_sin in halves:  # products as cosines and sines of sums
            for weights, function in ((of_cos, torch.cos), (of_sin, torch.sin)):
                i, j = weights.nonzero(as_tuple=True)
                total += function(angles[:, i] + sign * others[:, j]) @ weights[i, j] / 2
        return total / rope.head_dim

    return make_envelope([at(positions) for positions in _chunks(last)])


def _angles(rope: RopeConfig, positions: Tensor) -> Tensor:
    """Return angles `[T, n]` of tokens with the same position on every axis, float64 `[T]`."""
    table = rope.frequency_table
    return table.angles(positions.expand(table.num_axes, -1), table).double()


def _padded_angles(rope: RopeConfig, positions: Tensor) -> Tensor:
    """Return the angles and a last column of 0, `[T, n + 1]`."""
    angles = _angles(rope, positions)
    return torch.cat((angles, angles.new_zeros(len(positions), 1)), 1)


@dataclass(frozen=True, slots=True)
class _Terms:
    """What each channel of a rotated head is: a source x cos(angle) + sign x source x sin(angle).

    Tensors are `[D, 2]`: for the term with the cosine, and for that with the sine.
    """

    source: Tensor
    """Int64: channels before the rotation."""

    angle: Tensor
    """Int64: the column of `_padded_angles`; the last for a channel that does not rotate."""

    sign: Tensor
    num_columns: int
    """n + 1."""


def _products(first: _Terms, second: _Terms) -> tuple[Tensor, ...]:
    """Return the sums of signs of products of terms of one source, `[n + 1, other n + 1]` each.

    They are those of cos cos, cos sin, sin cos and sin sin.
    """
    size = first.num_columns, second.num_columns
    products = []
    for a in (0, 1):
        for b in (0, 1):
            channel = (first.source[:, a] == second.source[:, b]).nonzero()[:, 0]
            where = first.angle[channel, a], second.angle[channel, b]
            signs = first.sign[channel, a] * second.sign[channel, b]
            zeros = torch.zeros(size, dtype=torch.float64)
            products.append(zeros.index_put(where, signs, accumulate=True))
    return tuple(products)


def _terms(rope: RopeConfig) -> _Terms:
    start = rope.head_dim - rope.rotary_dim if rope.trailing else 0
    rotated = slice(start, start + rope.rotary_dim)
    width, num_angles = rope.rotary_dim // rope.blocks, len(rope.inv_freq)
    numbers = torch.arange(start + 1, rotated.stop + 1).view(rope.blocks, width)  # from 1: signs
    if rope.layout == "interleaved_to_half":
        numbers = deinterleave(numbers)
    partners = rotate_half(numbers, rope.layout).flatten()
    angles = torch.arange(num_angles).view(rope.blocks, -1)
    angle = expand_to_channels(angles, rope.layout, width).flatten()
    source = torch.arange(rope.head_dim)[:, None].repeat(1, 2)
    all_angles = torch.full_like(source, num_angles)
    sign = torch.ones(rope.head_dim, 2, dtype=torch.float64)
    source[rotated] = torch.stack((numbers.flatten() - 1, partners.abs() - 1), 1)
    all_angles[rotated] = angle[:, None]
    sign[rotated, 1] = partners.sign().double() * (-1 if rope.negative else 1)
    return _Terms(source, all_angles, sign, num_angles + 1)


def _chunks(last: int) -> Iterator[Tensor]:
    for start in range(1, last + 1, CHUNK):
        yield torch.arange(start, min(start + CHUNK, last + 1), dtype=torch.float64)
