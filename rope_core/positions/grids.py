"""Whole positions of patches on grids, in the order in which a model has the patches."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rope_core.checks import shape_of
from rope_core.errors import ConfigError, ShapeError
from rope_core.positions import validate

MAX_GRIDS = 2**14
"""Largest number of images or videos of one call."""

MAX_MERGE = 2**12
"""Largest side of a block of patches that a model merges."""


def grid_positions(
    *,
    sizes: Sequence[int],
    start: int = 0,
    column_first: bool = False,
    first_tokens: int = 0,
    last_tokens: int = 0,
) -> Tensor:
    """Return row-major positions of a grid, with class tokens at position 0.

    Two sizes are rows and columns, three are frames, rows and columns. A token at position 0 of
    all axes does not rotate: Llama-4's vision tower has `start` 1 and one last token.

    Models: SAM 2, Llama-4 vision, EfficientLoFTR, Wan, V-JEPA 2.

    Args:
        sizes: 1 to 4 sizes, that of the slowest axis first.
        start: the first coordinate of every axis; 1 for Llama-4 vision and EfficientLoFTR.
        column_first: reverse the axes to (x, y), as in SAM 2, Llama-4 vision and Step 3.7; the
            order of the tokens stays.
        first_tokens: number of tokens at position 0 before the grid.
        last_tokens: number of tokens at position 0 after the grid.

    Returns:
        int64 `[axes, first_tokens + product of sizes + last_tokens]`.

    >>> grid_positions(sizes=[2, 2], start=1, column_first=True, last_tokens=1).tolist()
    [[1, 2, 1, 2, 0], [1, 1, 2, 2, 0]]
    """
    grid = validate.any_sizes(sizes)
    validate.integer("start", start, -validate.MAX_INT)
    points = grid_points([torch.arange(size) + start for size in grid])
    if validate.boolean("column_first", column_first):
        points = points.flip(0)
    return pad_with_zeros(points, first_tokens, last_tokens)


def merge_block_positions(
    *, grid_thw: Tensor, spatial_merge_size: int = 2, with_time: bool = False
) -> Tensor:
    """Return rows and columns of patches in merge-block order, for a ViT (Qwen-VL, GLM-4V).

    The patches of each block of `spatial_merge_size` squared are consecutive, blocks are row-major,
    and each frame repeats them. Images follow each other. Without merging, the order is row-major
    (Pixtral).

    Models: Qwen-VL ViT, GLM-4V ViT, MiniMax-M3 ViT, Pixtral.

    Args:
        grid_thw: int64 `[images, 3]`: frames, rows, columns, in patches.
        spatial_merge_size: side of a block, in patches.
        with_time: add a first axis that counts the frames (MiniMax-M3).

    Returns:
        int64 `[2, T]`, or `[3, T]` with time, of all T patches.

    >>> grid = torch.tensor([[1, 2, 4]])
    >>> merge_block_positions(grid_thw=grid).tolist()
    [[0, 0, 1, 1, 0, 0, 1, 1], [0, 1, 0, 1, 2, 3, 2, 3]]
    """
    merge = validate.integer("spatial_merge_size", spatial_merge_size, 1, MAX_MERGE)
    validate.boolean("with_time", with_time)
    blocks = merged_grids("grid_thw", grid_thw, merge)
    validate.count("grid_thw", int(blocks.prod(-1).sum()) * merge**2 * (2 + with_time))
    parts = []
    for frames, rows, columns in blocks.tolist():
        ranges = [torch.arange(size) for size in (frames, rows, columns, merge, merge)]
        time, row, column, row_inside, column_inside = grid_points(ranges)
        parts.append(torch.stack([time, row * merge + row_inside, column * merge + column_inside]))
    return torch.cat(parts, 1)[0 if with_time else 1 :]


def padded_grid_positions(
    *, grid_hw: Tensor, length: int, column_first: bool = True, padding: int = 0
) -> Tensor:
    """Return row-major positions of a batch of images, padded to one length (Gemma-4 vision).

    Models: Gemma-4 vision.

    Args:
        grid_hw: int64 `[B, 2]`: rows and columns of each image, in patches.
        length: tokens of each row of the result, at least the patches of the largest image.
        column_first: order the axes as (x, y), as Gemma-4 does.
        padding: position of padding: -1 is Gemma-4's mark, 0 is the mark after clamping.

    Returns:
        int64 `[2, B, length]`.
    """
    grids = validate.int_tensor("grid_hw", grid_hw, "[B, 2]", 2)
    if grids.shape[1] != 2 or not bool(((grids >= 1) & (grids <= validate.MAX_POSITIONS)).all()):
        raise ShapeError("grid_hw", "[B, 2] of sizes from 1", grids.tolist()[:8])
    validate.integer("length", length, 1, validate.MAX_POSITIONS)
    validate.integer("padding", padding, -1, 0)
    validate.count("length", 2 * len(grids) * length)
    longest = int(grids.double().prod(-1).max())
    if longest > length:
        raise ConfigError("length", f"at least {longest}, the patches of the largest image", length)
    index, (rows, columns) = torch.arange(length), grids.T[..., None]
    points = torch.stack([index // columns, (index % columns).expand(len(grids), -1)])
    points = points.masked_fill(index >= rows * columns, padding)
    return points.flip(0) if validate.boolean("column_first", column_first) else points


def resampled_positions(*, sizes: Sequence[int], axes_dim: Sequence[int]) -> Tensor:
    """Return positions of a grid spread over the trained one, j * axes_dim // size (CogView-4).

    Models: CogView-4.

    Args:
        sizes: rows and columns of the grid.
        axes_dim: rows and columns of the trained grid.

    Returns:
        int64 `[2, rows * columns]`, row-major.

    >>> resampled_positions(sizes=[2, 2], axes_dim=[256, 256]).tolist()
    [[0, 0, 128, 128], [0, 128, 0, 128]]
    """
    trained = validate.integers("axes_dim", axes_dim, 2, 1, validate.MAX_POSITIONS)
    pairs = zip(validate.sizes(sizes, 2), trained, strict=True)
    return grid_points([torch.arange(size) * dim // size for size, dim in pairs])


def merged_grids(name: str, grid_thw: Tensor, spatial_merge: int, time_merge: int = 1) -> Tensor:
    """Return grids in merged patches: int64 `[N, 3]` of frames, rows and columns."""
    grids = validate.int_tensor(name, grid_thw, "[grids, 3]", 2)
    if grids.shape[1] != 3 or len(grids) > MAX_GRIDS:
        raise ShapeError(name, f"[grids, 3], of at most {MAX_GRIDS} grids", shape_of(grids))
    if not bool(((grids >= 1) & (grids <= validate.MAX_POSITIONS)).all()):
        raise ShapeError(name, f"of sizes from 1 to {validate.MAX_POSITIONS}", "others")
    merge = torch.tensor([time_merge, spatial_merge, spatial_merge])
    if bool((grids % merge).any()):
        raise ShapeError(name, f"divisible by the merge {merge.tolist()}", grids.tolist()[:8])
    if float((grids // merge).double().prod(-1).sum()) > validate.MAX_POSITIONS:
        raise ShapeError(name, f"of at most {validate.MAX_POSITIONS} tokens", "more")
    return grids // merge


def optional_grids(
    name: str, grid_thw: Tensor | None, spatial_merge: int, time_merge: int = 1
) -> Tensor:
    """Return grids in merged patches, int64 `[N, 3]`; `[0, 3]` if there are none."""
    if grid_thw is None:
        return torch.zeros(0, 3, dtype=torch.int64)
    return merged_grids(name, grid_thw, spatial_merge, time_merge)


def grid_points(axes: Sequence[Tensor]) -> Tensor:
    """Return all points of a grid, `[axes, points]`, the last axis fastest."""
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)


def pad_with_zeros(points: Tensor, first_tokens: int, last_tokens: int) -> Tensor:
    """Return points `[axes, T]` with tokens at position 0 before and after them."""
    for name, count in (("first_tokens", first_tokens), ("last_tokens", last_tokens)):
        validate.integer(name, count, 0, validate.MAX_POSITIONS)
        validate.count(name, len(points) * count)
    return torch.nn.functional.pad(points, (first_tokens, last_tokens))
