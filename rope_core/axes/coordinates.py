"""Schemes of coordinates: atoms in space, points in time, positions divided by a factor."""

import torch
from torch import Tensor

from rope_core.axes.frequency_table import AxisFrequencies, FrequencyTable, multiply, section_axes
from rope_core.errors import ConfigError


def atoms(
    freqs: AxisFrequencies,
    dim: int,
    *,
    num_spatial_pairs: int,
    num_uid_pairs: int,
    spatial_theta: float,
    uid_theta: float,
) -> FrequencyTable:
    """Coordinates x, y, z in space, then the molecule's id; the other pairs do not rotate.

    Source: ESMFold2's atom encoder.
    Models: ESMFold2.
    """
    for name, theta in (("spatial_theta", spatial_theta), ("uid_theta", uid_theta)):
        if theta < 1e-6:
            raise ConfigError(name, "a number of at least 1e-6", theta)
    num_fixed = dim // 2 - 3 * num_spatial_pairs - num_uid_pairs
    if min(num_spatial_pairs, num_uid_pairs, num_fixed) < 0:
        expected = f"with 3 * num_spatial_pairs in [0, {dim // 2}] and neither negative"
        raise ConfigError("num_uid_pairs", expected, f"{num_uid_pairs}, {num_spatial_pairs}")
    space, uid = (
        1.0 / theta ** (torch.arange(0, pairs, dtype=freqs.dtype) / pairs)
        for theta, pairs in ((spatial_theta, num_spatial_pairs), (uid_theta, num_uid_pairs))
    )
    axis = section_axes((num_spatial_pairs,) * 3 + (num_uid_pairs + num_fixed,))
    inv_freq = torch.cat((space.repeat(3), uid, space.new_zeros(num_fixed)))
    return FrequencyTable(inv_freq, axis, 4, False)


def timestamps(freqs: AxisFrequencies, dim: int) -> FrequencyTable:
    """The angle is time * (coordinate * frequency), first for the window, then for the frame.

    The axes are -2 pi times the seconds, and the coordinates of the window and of the frame.

    Source: Music Flamingo, NVIDIA, 2025.
    Models: Music Flamingo.
    """
    axis = torch.arange(1, 3).repeat_interleave(dim // 4)
    inv_freq = freqs(dim // 2).repeat(2)
    return FrequencyTable(inv_freq, axis, 3, False, _multiply_by_time, coupled=True)


def interpolated(freqs: AxisFrequencies, dim: int, *, interpolate_factor: float) -> FrequencyTable:
    """One axis; positions are divided by a factor first.

    Source: rotary-embedding-torch (`interpolate_factor`).
    Models: users of rotary-embedding-torch.
    """
    if not interpolate_factor >= 1:
        raise ConfigError("interpolate_factor", "at least 1", interpolate_factor)

    def divide(positions: Tensor, table: FrequencyTable) -> Tensor:
        return multiply(positions / interpolate_factor, table)

    return FrequencyTable(freqs(dim), angles=divide)


def _multiply_by_time(positions: Tensor, table: FrequencyTable) -> Tensor:
    """Return time times position times frequency: positions `[A, T]` -> angles `[T, n]`."""
    return multiply(positions, table) * positions[0, :, None]
