"""Schemes of what is neither: atoms, moments, stretched sequences."""

import torch
from torch import Tensor

from rope_core.axes.frequency_table import Columns, Spectra, product, runs
from rope_core.errors import ConfigError


def atoms(
    spectra: Spectra,
    dim: int,
    *,
    num_spatial_pairs: int,
    num_uid_pairs: int,
    spatial_theta: float,
    uid_theta: float,
) -> Columns:
    """Coordinates x, y, z in space, then the molecule's id; the pairs left over stand still.

    Source: ESMFold2's atom encoder.
    Models: ESMFold2.
    """
    for name, theta in (("spatial_theta", spatial_theta), ("uid_theta", uid_theta)):
        if theta < 1e-6:
            raise ConfigError(name, "a number of at least 1e-6", theta)
    still = dim // 2 - 3 * num_spatial_pairs - num_uid_pairs
    if min(num_spatial_pairs, num_uid_pairs) < 0 or still < 0:
        expected = f"with 3 * num_spatial_pairs in [0, {dim // 2}] and neither negative"
        raise ConfigError("num_uid_pairs", expected, f"{num_uid_pairs}, {num_spatial_pairs}")
    space, uid = (
        1.0 / theta ** (torch.arange(0, pairs, dtype=spectra.dtype) / pairs)
        for theta, pairs in ((spatial_theta, num_spatial_pairs), (uid_theta, num_uid_pairs))
    )
    axis = runs((num_spatial_pairs,) * 3 + (num_uid_pairs + still,))
    return Columns(torch.cat((space.repeat(3), uid, space.new_zeros(still))), axis, 4, False)


def timestamps(spectra: Spectra, dim: int) -> Columns:
    """Angle time * (coordinate * frequency), of the window first, then of the frame.

    Axes are -2 pi times seconds, the window's coordinate and the frame's.

    Source: Music Flamingo, NVIDIA, 2025.
    Models: Music Flamingo.
    """
    axis = torch.arange(1, 3).repeat_interleave(dim // 4)
    return Columns(spectra(dim // 2).repeat(2), axis, 3, False, _timed, coupled=True)


def interpolated(spectra: Spectra, dim: int, *, interpolate_factor: float) -> Columns:
    """One axis, positions divided by a factor before anything else.

    Source: rotary-embedding-torch (`interpolate_factor`).
    Models: users of rotary-embedding-torch.
    """
    if not interpolate_factor >= 1:
        raise ConfigError("interpolate_factor", "at least 1", interpolate_factor)

    def divided(positions: Tensor, columns: Columns) -> Tensor:
        return product(positions / interpolate_factor, columns)

    return Columns(spectra(dim), angles=divided)


def _timed(positions: Tensor, columns: Columns) -> Tensor:
    return product(positions, columns) * positions[0, :, None]
