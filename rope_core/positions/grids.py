"""Whole positions of patches on grids, in the order in which a model has them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rope_core.checks import shape_of
from rope_core.errors import ConfigError, ShapeError
from rope_core.positions import validate

MAX_GRIDS = 2**14
"""Most images or videos of one call."""


def grid_positions(
    *,
    sizes: Sequence[int],
    start: int = 0,
    column_first: bool = False,
    first_tokens: int = 0,
    last_tokens: int = 0,
) -> Tensor:
    """Return row-major positions of a grid, all its axes, with class tokens at 0.

    Two sizes are rows and columns, three are frames, rows and columns (V-JEPA 2, MiniMax-M3, Wan,
    HunyuanVideo, CogVideoX 1.5). A token at position 0 of every axis is not rotated, so `start` 1
    with one last token is Llama-4's vision tower.

    Args:
        sizes: 1 to 4 lengths, of the axis that moves slowest first.
        start: the first coordinate of every axis; 1 for Llama-4 vision and EfficientLoFTR.
        column_first: axes in reverse, (x, y), as SAM 2, Llama-4 vision and Step 3.7 have them;
            the order of the tokens stays.
        first_tokens: tokens at position 0 before the grid's.
        last_tokens: tokens at position 0 behind them.

    Returns:
        int64 `[axes, first_tokens + product of sizes + last_tokens]`.

    >>> grid_positions(sizes=[2, 2], start=1, column_first=True, last_tokens=1).tolist()
    [[1, 2, 1, 2, 0], [1, 1, 2, 2, 0]]
    """
    if not isinstance(sizes, list | tuple) or not 1 <= len(sizes) <= 4:
        raise ConfigError("sizes", "a list of 1 to 4 numbers", sizes)
    grid = validate.sizes("sizes", sizes, len(sizes))
    validate.whole("start", start, -validate.FARTHEST)
    points = spread([torch.arange(size) + start for size in grid])
    if validate.flag("column_first", column_first):
        points = points.flip(0)
    return surround(points, first_tokens, last_tokens)


def merge_block_positions(
    *, grid_thw: Tensor, spatial_merge_size: int = 2, with_time: bool = False
) -> Tensor:
    """Return rows and columns of ViT patches whose merge blocks lie end to end (Qwen-VL, GLM-4V).

    The patches of each block of `spatial_merge_size` squared are consecutive, blocks are
    row-major, and all of it is repeated for each frame. Images follow each other; a merge of 1
    is row-major order (Pixtral).

    Args:
        grid_thw: int64 `[images, 3]`: frames, rows, columns, in patches.
        spatial_merge_size: side of a block, in patches.
        with_time: a first axis counts the frames (MiniMax-M3).

    Returns:
        int64 `[2, T]`, or `[3, T]` with time, of all T patches.

    >>> grid = torch.tensor([[1, 2, 4]])
    >>> merge_block_positions(grid_thw=grid).tolist()
    [[0, 0, 1, 1, 0, 0, 1, 1], [0, 1, 0, 1, 2, 3, 2, 3]]
    """
    merge = validate.whole("spatial_merge_size", spatial_merge_size, 1, 2**12)
    validate.flag("with_time", with_time)
    blocks = merged("grid_thw", grid_thw, 1, merge)
    validate.few("grid_thw", int(blocks.prod(-1).sum()) * merge**2 * (2 + with_time))
    parts = []
    for frames, rows, columns in blocks.tolist():
        lengths = (frames, rows, columns, merge, merge)
        time, row, column, down, right = spread([torch.arange(length) for length in lengths])
        parts.append(torch.stack([time, row * merge + down, column * merge + right]))
    return torch.cat(parts, 1)[0 if with_time else 1 :]


def padded_grid_positions(
    *, grid_hw: Tensor, length: int, column_first: bool = True, padding: int = 0
) -> Tensor:
    """Return row-major positions of a batch of images, padded to one length (Gemma-4 vision).

    Args:
        grid_hw: int64 `[B, 2]`: rows and columns of each image, in patches.
        length: tokens of each row of the result, the patches of the largest image at least.
        column_first: axes (x, y), as Gemma-4 has them.
        padding: position of what is no patch: 0 clamps Gemma-4's mark of padding, -1 is the mark.

    Returns:
        int64 `[2, B, length]`.
    """
    grids = validate.integers("grid_hw", grid_hw, "[B, 2]", (2,))
    if grids.shape[1] != 2 or not bool(((grids >= 1) & (grids <= validate.MAX_POSITIONS)).all()):
        raise ShapeError("grid_hw", "[B, 2] of sizes from 1", grids.tolist()[:8])
    validate.whole("length", length, 1, validate.MAX_POSITIONS)
    validate.whole("padding", padding, -1, 0)
    validate.few("length", 2 * len(grids) * length)
    longest = int(grids.double().prod(-1).max())
    if longest > length:
        raise ConfigError(
            "length", f"the patches of the largest image, {longest}, at least", length
        )
    index, (rows, columns) = torch.arange(length), grids.T[..., None]
    points = torch.stack([index // columns, (index % columns).expand(len(grids), -1)])
    points = points.masked_fill(index >= rows * columns, padding)
    return points.flip(0) if validate.flag("column_first", column_first) else points


def resampled_positions(*, sizes: Sequence[int], axes_dim: Sequence[int]) -> Tensor:
    """Return positions of a grid spread over the trained one, j * axes_dim // size (CogView-4).

    Args:
        sizes: rows and columns of the grid.
        axes_dim: rows and columns of the trained grid.

    Returns:
        int64 `[2, rows * columns]`, row-major.

    >>> resampled_positions(sizes=[2, 2], axes_dim=[256, 256]).tolist()
    [[0, 0, 128, 128], [0, 128, 0, 128]]
    """
    grid = validate.sizes("sizes", sizes, 2)
    trained = validate.wholes("axes_dim", axes_dim, 2, 1, validate.MAX_POSITIONS)
    pairs = zip(grid, trained, strict=True)
    return spread([torch.arange(size) * dim // size for size, dim in pairs])


def merged(name: str, grids: Tensor, time_merge: int, spatial_merge: int) -> Tensor:
    """Return grids `[N, 3]` in merged patches."""
    grids = validate.integers(name, grids, "[grids, 3]", (2,))
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


def spread(axes: Sequence[Tensor]) -> Tensor:
    """Return all points of a grid, the last axis fastest: `[axes, points]`."""
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)


def surround(points: Tensor, first_tokens: int, last_tokens: int) -> Tensor:
    """Return points `[axes, T]` with tokens at position 0 before and behind them."""
    for name, count in (("first_tokens", first_tokens), ("last_tokens", last_tokens)):
        validate.whole(name, count, 0, validate.MAX_POSITIONS)
        validate.few(name, len(points) * count)
    return torch.nn.functional.pad(points, (first_tokens, last_tokens))
