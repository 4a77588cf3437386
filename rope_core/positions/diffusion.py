"""Positions of latents and their prompts in diffusion transformers, as diffusers makes them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rope_core.checks import shape_of
from rope_core.errors import ConfigError, ShapeError
from rope_core.positions import validate
from rope_core.positions.grids import grid_points, pad_with_zeros

MAX_IMAGES = 2**12
"""Largest number of images of one call."""


def flux_positions(
    *, sizes: Sequence[int], text_tokens: int = 0, axes: int = 3, index: int = 0
) -> Tensor:
    """Return positions of a prompt, then of an image's latents (Flux.1, Flux.2, Chroma).

    Models: Flux.1, Flux.2, Chroma.

    Args:
        sizes: rows and columns of the packed latents.
        text_tokens: number of the prompt's tokens: at 0 on every axis in Flux.1, counted on the
            last axis in Flux.2.
        axes: 3 for Flux.1 (index, row, column), 4 for Flux.2 (index, row, column, text).
        index: the image: 0 for the generated one, then the inputs (1 in Kontext; 10, 20 in Flux.2).

    Returns:
        int64 `[axes, text_tokens + rows * columns]`.

    >>> flux_positions(sizes=[1, 2], text_tokens=1).tolist()
    [[0, 0, 0], [0, 0, 0], [0, 0, 1]]
    """
    validate.integer("axes", axes, 3, 4)
    rows, columns = validate.sizes(sizes, 2, axes)
    validate.integer("index", index)
    row, column = grid_points([torch.arange(rows), torch.arange(columns)])
    image = torch.stack([torch.full_like(row, index), row, column, torch.zeros_like(row)])
    validate.integer("text_tokens", text_tokens, 0, validate.MAX_POSITIONS // axes)
    points = pad_with_zeros(image[:axes], text_tokens, 0)
    if axes == 4:
        points[3, :text_tokens] = torch.arange(text_tokens)
    return points


def centred_positions(
    *,
    sizes: Sequence[Sequence[int]],
    text_tokens: int = 0,
    scale_rope: bool = True,
    layered: bool = False,
) -> Tensor:
    """Return positions of images around 0, then of the prompt (Qwen-Image).

    Rows and columns run from -(n - n // 2) to n // 2 - 1. The prompt has equal positions on all
    axes, and starts at the largest n // 2 of all images. Image i starts at frame i.

    Models: Qwen-Image, Qwen-Image-Layered.

    Args:
        sizes: frames, rows and columns of each image: the generated one first, then the inputs.
        text_tokens: number of the prompt's tokens.
        scale_rope: False counts rows and columns from 0, and starts the prompt at their largest
            number.
        layered: Qwen-Image-Layered: the last image is at frame -1, and the prompt starts at the
            number of the other images or later.

    Returns:
        int64 `[3, tokens of the images + text_tokens]`.

    >>> centred_positions(sizes=[[1, 1, 3]], text_tokens=1).tolist()
    [[0, 0, 0, 1], [-1, -1, -1, 1], [-2, -1, 0, 1]]
    """
    if not isinstance(sizes, list | tuple) or not 1 <= len(sizes) <= MAX_IMAGES:
        raise ConfigError("sizes", f"a list of 1 to {MAX_IMAGES} images", type(sizes).__name__)
    grids = [validate.sizes(grid, 3, name=f"sizes[{i}]") for i, grid in enumerate(sizes)]
    validate.count("sizes", sum(3 * t * h * w for t, h, w in grids))
    validate.integer("text_tokens", text_tokens, 0, validate.MAX_POSITIONS // 3)
    validate.boolean("scale_rope", scale_rope)
    validate.boolean("layered", layered)
    last = len(grids) - 1
    if layered and grids[last][0] != 1:
        raise ConfigError(f"sizes[{last}]", "of one frame, because layered is true", grids[last])
    parts, text_start = [], last if layered else 0
    for i, (frames, *sides) in enumerate(grids):
        time = torch.tensor([-1]) if layered and i == last else torch.arange(frames) + i
        ranges = [torch.arange(n) - (n - n // 2 if scale_rope else 0) for n in sides]
        parts.append(grid_points([time, *ranges]))
        text_start = max(text_start, *(n // 2 if scale_rope else n for n in sides))
    parts.append((torch.arange(text_tokens) + text_start).expand(3, -1))
    return torch.cat(parts, 1)


def crop_positions(
    *, sizes: Sequence[int], crop_start: Sequence[float], crop_stop: Sequence[float]
) -> Tensor:
    """Return frames, and `linspace` rows and columns of a crop of the trained grid (CogVideoX).

    CogVideoX 1.5 ("slice") counts from 0: see `grid_positions`.

    Models: CogVideoX.

    Args:
        sizes: frames, rows, columns.
        crop_start: row and column where the crop starts.
        crop_stop: row and column where the crop stops; n steps end at stop * (n - 1) / n.

    Returns:
        float32 `[3, frames * rows * columns]`, row-major.
    """
    frames, *sides = validate.sizes(sizes, 3)
    starts = validate.numbers("crop_start", crop_start, 2)
    stops = validate.numbers("crop_stop", crop_stop, 2)
    ranges = [
        torch.linspace(start, stop * (side - 1) / side, side)
        for start, stop, side in zip((0, *starts), (frames, *stops), (frames, *sides), strict=True)
    ]
    return grid_points(ranges)


def frame_rate_positions(
    *, sizes: Sequence[int], fps: float | None = None, base_fps: float = 24
) -> Tensor:
    """Return frames times base_fps / fps, rows and columns (Cosmos).

    Models: Cosmos.

    Args:
        sizes: frames, rows, columns, in patches.
        fps: frames per second; None counts frames (an image).
        base_fps: frames per second in training.

    Returns:
        float32 `[3, frames * rows * columns]`, row-major.

    >>> frame_rate_positions(sizes=[2, 1, 1], fps=12).tolist()
    [[0.0, 2.0], [0.0, 0.0], [0.0, 0.0]]
    """
    time, *sides = (torch.arange(size).float() for size in validate.sizes(sizes, 3))
    if fps is not None:
        time = time / validate.positive("fps", fps) * validate.positive("base_fps", base_fps)
    return grid_points([time, *sides])


def normalised_video_positions(
    *,
    sizes: Sequence[int],
    rope_interpolation_scale: Sequence[float] | None = None,
    base_num_frames: int = 20,
    base_height: int = 2048,
    base_width: int = 2048,
    patch_size: int = 1,
    patch_size_t: int = 1,
) -> Tensor:
    """Return frames, rows and columns as fractions x of a base size, scaled to 2 x - 1 (LTX-Video).

    Models: LTX-Video.

    Args:
        sizes: frames, rows, columns, in patches.
        rope_interpolation_scale: pixels per latent on each axis, for instance `[8 / 25, 32, 32]`;
            with None the indices themselves are the fractions, as in diffusers.
        base_num_frames: number of frames that is a fraction of 1.
        base_height: number of rows that is a fraction of 1.
        base_width: number of columns that is a fraction of 1.
        patch_size: side of a patch.
        patch_size_t: frames of a patch.

    Returns:
        float32 `[3, frames * rows * columns]`, row-major.
    """
    axes = [torch.arange(size).float() for size in validate.sizes(sizes, 3)]
    bases = {"base_num_frames": base_num_frames, "base_height": base_height}
    bases |= {"base_width": base_width, "patch_size": patch_size, "patch_size_t": patch_size_t}
    for name, base in bases.items():
        validate.integer(name, base, 1)
    if rope_interpolation_scale is not None:
        scales = validate.numbers("rope_interpolation_scale", rope_interpolation_scale, 3)
        patches = (patch_size_t, patch_size, patch_size)
        factors = zip(
            axes, scales, patches, (base_num_frames, base_height, base_width), strict=True
        )
        axes = [axis * scale * patch / base for axis, scale, patch, base in factors]
    return grid_points(axes) * 2 - 1


def caption_positions(*, text_lengths: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return positions of captions, then of an image's patches, padded (Lumina-2, OmniGen 2).

    Caption tokens are at (i, 0, 0), patches at (length of the caption, row, column), padding at
    (0, 0, 0).

    Models: Lumina-2, OmniGen 2.

    Args:
        text_lengths: int64 `[B]`, tokens of each caption.
        sizes: rows and columns of the image, in patches.

    Returns:
        int64 `[3, B, longest caption + rows * columns]`.
    """
    lengths = validate.int_tensor("text_lengths", text_lengths, "[B]", 1)[:, None]
    rows, columns = validate.sizes(sizes, 2, 3)
    if not bool(((lengths >= 0) & (lengths <= validate.MAX_POSITIONS)).all()):
        raise ShapeError("text_lengths", f"from 0 to {validate.MAX_POSITIONS}", shape_of(lengths))
    longest = int(lengths.max()) + rows * columns
    validate.count("text_lengths", 3 * len(lengths) * longest)
    index = torch.arange(longest)
    patch = index - lengths
    text, image = patch < 0, (patch >= 0) & (patch < rows * columns)
    points = torch.stack([torch.where(text, index, lengths), patch // columns, patch % columns])
    points[1:] *= image
    points[0] *= text | image
    return points
