"""How alike rotated vectors are: means over all vectors, exact at every whole position."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rope_core.config import RopeConfig
from rope_core.frequencies import xpos_zeta
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
    decay: Tensor | None = None
    if rope.rope_type == "xpos":
        dtype, device = torch.float64, torch.device("cpu")
        base = dict(rope.parameters)["scale_base"]
        assert isinstance(base, float)
        decay = xpos_zeta(rope.rotary_dim, dtype, device).log() / base

    def at(positions: Tensor) -> Tensor:
        cos = angles_at(rope, positions).cos()
        if decay is not None:
            cos = cos * (positions[:, None] * decay).exp()
        return (cos.sum(1) * (rope.rotary_dim / num_angles) + passing) / rope.head_dim

    return make_envelope([at(positions) for positions in _chunks(last)])


def rotated_cosine(rope: RopeConfig, other: RopeConfig, last: int) -> Envelope:
    """Return the cosine of a vector rotated by `rope` and the same vector rotated by `other`.

    The mean over all vectors with as much energy in each channel; both have the same head_dim.
    """
    first, second = _rows(rope), _rows(other)
    both = [
        (torch.nonzero(mine == theirs)[:, 0], is_sine, other_is_sine)
        for mine, is_sine in ((first.source, False), (first.partner, True))
        for theirs, other_is_sine in ((second.source, False), (second.partner, True))
    ]

    def at(positions: Tensor) -> Tensor:
        tables, other_tables = first.tables(rope, positions), second.tables(other, positions)
        total = torch.zeros(len(positions), dtype=torch.float64)
        for rows, is_sine, other_is_sine in both:
            total += (tables[is_sine][:, rows] * other_tables[other_is_sine][:, rows]).sum(1)
        return total / rope.head_dim

    return make_envelope([at(positions) for positions in _chunks(last)])


def angles_at(rope: RopeConfig, positions: Tensor) -> Tensor:
    """Return angles `[T, n]` of tokens with the same position on every axis, float64 `[T]`."""
    table = rope.frequency_table
    return table.angles(positions.expand(table.num_axes, -1), table).double()


@dataclass(frozen=True, slots=True)
class _Rows:
    """What each channel of a rotated head is: source x cos(angle) + sign x partner x sin(angle)."""

    source: Tensor
    """int64 `[D]`, as `partner`."""

    partner: Tensor
    """-1 for a channel that does not rotate."""

    sign: Tensor
    angle: Tensor
    """Index of an angle; n for a channel that does not rotate."""

    def tables(self, rope: RopeConfig, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return factors `[T, D]` of the source and of the partner."""
        angles = angles_at(rope, positions)
        angles = torch.cat((angles, angles.new_zeros(len(positions), 1)), 1)
        return angles.cos()[:, self.angle], angles.sin()[:, self.angle] * self.sign


def _rows(rope: RopeConfig) -> _Rows:
    start = rope.head_dim - rope.rotary_dim if rope.trailing else 0
    rotated = slice(start, start + rope.rotary_dim)
    width, num_angles = rope.rotary_dim // rope.blocks, len(rope.inv_freq)
    numbers = torch.arange(start + 1, rotated.stop + 1).view(rope.blocks, width)
    if rope.layout == "interleaved_to_half":
        numbers = deinterleave(numbers)
    partners = rotate_half(numbers, rope.layout)
    angles = torch.arange(num_angles).view(rope.blocks, -1)
    source = torch.arange(rope.head_dim)
    partner, angle = torch.full_like(source, -1), torch.full_like(source, num_angles)
    sign = torch.zeros(rope.head_dim, dtype=torch.float64)
    source[rotated] = numbers.flatten() - 1
    partner[rotated] = partners.abs().flatten() - 1
    sign[rotated] = partners.sign().flatten().double() * (-1 if rope.negative else 1)
    angle[rotated] = expand_to_channels(angles, rope.layout, width).flatten()
    return _Rows(source, partner, sign, angle)


def _chunks(last: int) -> Iterator[Tensor]:
    for start in range(1, last + 1, CHUNK):
        yield torch.arange(start, min(start + CHUNK, last + 1), dtype=torch.float64)
