"""Fractional positions in float32, in the arithmetic of the package that defines them."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rope_core.checks import shape_of
from rope_core.errors import ShapeError
from rope_core.positions import validate
from rope_core.positions.grids import grid_points, pad_with_zeros


def patch_centre_positions(*, sizes: Sequence[int], first_tokens: int = 0) -> Tensor:
    """Return the centres of patches, 2 (j + 0.5) / n - 1, of an image from -1 to 1 (DINOv3, EoMT).

    Models: DINOv3, EoMT, Sapiens-2.

    Args:
        sizes: rows and columns, in patches.
        first_tokens: number of class and register tokens before the patches, at position 0.

    Returns:
        float32 `[2, first_tokens + rows * columns]`, row-major.

    >>> patch_centre_positions(sizes=[1, 2], first_tokens=1).tolist()
    [[0.0, 0.0, 0.0], [0.0, -0.5, 0.5]]
    """
    grid = validate.sizes(sizes, 2)
    centres = [2.0 * ((torch.arange(size) + 0.5) / size) - 1.0 for size in grid]
    return pad_with_zeros(grid_points(centres), first_tokens, 0)


def window_positions(*, sizes: Sequence[int], window_size: int) -> Tensor:
    """Return columns and rows of a grid, scaled to the window of the windowed layers (SAM 3).

    Models: SAM 3.

    Args:
        sizes: rows and columns of the layer: of the window, or of the image in global layers.
        window_size: side of the window; positions are multiplied by window_size / columns.

    Returns:
        float32 `[2, rows * columns]`, axes (x, y), row-major.
    """
    rows, columns = validate.sizes(sizes, 2)
    validate.integer("window_size", window_size, 1, validate.MAX_POSITIONS)
    row, column = grid_points([torch.arange(rows), torch.arange(columns)])
    return torch.stack([column, row]) * (window_size / columns)


def pixel_positions(*, sizes: Sequence[int], offsets: Sequence[float] | None = None) -> Tensor:
    """Return `size` steps from -1 to 1 on each axis (rotary-embedding-torch "pixel", EVA).

    Models: rotary-embedding-torch, EVA.

    Args:
        sizes: 1 to 4 sizes, that of the slowest axis first.
        offsets: a number to add on each axis; none if None.

    Returns:
        float32 `[axes, product of sizes]`.
    """
    grid = validate.any_sizes(sizes)
    added = validate.numbers("offsets", offsets, len(grid)) if offsets is not None else (0.0,) * 4
    steps = [torch.linspace(-1, 1, steps=size) for size in grid]
    return grid_points([step + offset for step, offset in zip(steps, added, strict=False)])


def area_normalised_positions(
    *, sizes: Sequence[int], base_height: int = 192, base_width: int = 192
) -> Tensor:
    """Return frames, and rows and columns centred on 0 and scaled to one area (Mochi).

    Models: Mochi.

    Args:
        sizes: frames, rows, columns.
        base_height: height of the area to which rows times columns are scaled.
        base_width: width of that area.

    Returns:
        float32 `[3, frames * rows * columns]`, row-major.
    """
    frames, rows, columns = validate.sizes(sizes, 3)
    validate.integer("base_height", base_height, 1, validate.MAX_POSITIONS)
    validate.integer("base_width", base_width, 1, validate.MAX_POSITIONS)
    scale = ((base_height * base_width) / (rows * columns)) ** 0.5
    edges = [
        torch.linspace(-size * scale / 2, size * scale / 2, size + 1) for size in (rows, columns)
    ]
    centres = [(edge[:-1] + edge[1:]) / 2 for edge in edges]
    return grid_points([torch.arange(frames).float(), *centres])


def atom_positions(*, xyz: Tensor, uid: Tensor) -> Tensor:
    """Return x, y, z and the molecule's number of each atom as four axes (ESMFold-2).

    Models: ESMFold-2.

    Args:
        xyz: float `[..., 3]` of 2 to 4 dimensions: coordinates in the unit of the model's file.
        uid: int64 `[...]`: the molecule of each atom.

    Returns:
        float32 `[4, ...]`.
    """
    xyz = validate.float_tensor("xyz", xyz, "[atoms, 3] or [B, atoms, 3]", 2, 3, 4)
    uid = validate.int_tensor("uid", uid, "[atoms] or [B, atoms]", 1, 2, 3)
    if xyz.shape[-1] != 3:
        raise ShapeError("xyz", "of 3 coordinates in its last dimension", shape_of(xyz))
    if uid.shape != xyz.shape[:-1]:
        raise ShapeError("uid", shape_of(xyz[..., 0]), shape_of(uid))
    validate.count("uid", 4 * uid.numel())
    return torch.cat([xyz.float().movedim(-1, 0), uid.float()[None]])


def audio_time_positions(
    *, timestamps: Tensor, audio_frame_step: float = 0.01, max_position_embeddings: int = 1200
) -> Tensor:
    """Return the three coordinates of Music Flamingo's angles: time, window, frame.

    At t seconds, in frame j of a window that starts at s and lasts d seconds: time is -2 pi t,
    window is round(s / d) / M, frame is 2 pi j / M. The angle of pair i is time * (window * w_i) in
    the first half of the rotated channels and time * (frame * w_i) in the second, all in float32.

    Models: Music Flamingo.

    Args:
        timestamps: float `[windows, S]`, seconds.
        audio_frame_step: seconds from one feature to the next; a frame has four features.
        max_position_embeddings: M, the largest S.

    Returns:
        float32 `[3, windows, S]`.
    """
    timestamps = validate.float_tensor("timestamps", timestamps, "[windows, S]", 2)
    validate.count("timestamps", 3 * timestamps.numel())
    validate.positive("audio_frame_step", audio_frame_step)
    most = validate.integer("max_position_embeddings", max_position_embeddings, 1, 2**24)
    length = timestamps.shape[1]
    if length > most:
        raise ShapeError("timestamps", f"of at most {most} frames", shape_of(timestamps))
    time = (-timestamps * 2 * math.pi).float()
    window = torch.round(timestamps[:, :1].float() / (audio_frame_step * 4 * length)) / most
    frame = torch.arange(length, dtype=torch.float32) / most * (2 * math.pi)
    return torch.stack([time, window.expand_as(time), frame.expand_as(time)])
