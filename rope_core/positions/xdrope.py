"""XD-RoPE: positions on four axes of text with images (HunyuanVL)."""

import torch
from torch import Tensor

from rope_core.errors import ShapeError
from rope_core.positions import validate
from rope_core.positions.grids import MAX_MERGE, optional_grids
from rope_core.positions.mrope import MropePositions
from rope_core.positions.tokens import IMAGE, read_tokens


def xdrope_index(
    *,
    token_types: Tensor,
    image_grid_thw: Tensor | None = None,
    attention_mask: Tensor | None = None,
    spatial_merge_size: int = 2,
    axes: int = 4,
) -> MropePositions:
    """Return XD-RoPE positions of text and images (HunyuanVL): sequence, column, row, image.

    Every token counts on all axes. On the last three, a patch has its column, its row and the
    number of its image instead, each from 0. A line break ends each row of patches and is one more
    column. The marks before and after an image can be of the type image or text.

    Models: hunyuan_vl.

    Args:
        token_types: int64 `[S]` or `[B, S]`: 0 text, 1 image.
        image_grid_thw: int64 `[images, 3]`: one frame, rows, columns, in patches before merging,
            in the order of their tokens, one row of the batch after the other.
        attention_mask: 1 for tokens, 0 for padding, of the shape of `token_types`; padding is at 0.
        spatial_merge_size: number of patches that are merged along a row and along a column.
        axes: 3 or more, the length of the model's section list; 4 in its published files.

    Returns:
        int64 positions `[axes, B, S]` (`[axes, S]`) and rope_delta `[B]` (`[]`).
    """
    merge = validate.integer("spatial_merge_size", spatial_merge_size, 1, MAX_MERGE)
    validate.integer("axes", axes, 3, 16)
    types, mask = read_tokens(token_types, attention_mask, IMAGE)
    validate.count("axes", axes * types.numel())
    grids = optional_grids("image_grid_thw", image_grid_thw, merge)
    if bool((grids[:, 0] != 1).any()):
        raise ShapeError("image_grid_thw", "of one frame each", grids[:8].tolist())

    kept, lengths = types[mask], mask.sum(-1).reshape(-1)
    row = torch.arange(len(lengths)).repeat_interleave(lengths)
    starts = lengths.cumsum(0) - lengths
    positions = (torch.arange(len(kept)) - starts[row]).repeat(axes, 1)
    where, image, index = _patches(kept, row, grids)
    columns = grids[image, 2] + 1
    positions[-3:, where] = torch.stack([index % columns, index // columns, image])
    return MropePositions.of(positions, mask, padding=0, length=None, counts_padding=True)


def _patches(kept: Tensor, row: Tensor, grids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the places of patches and line breaks, their images, and their index in the image."""
    sizes = grids[:, 1] * (grids[:, 2] + 1)
    where = (kept == IMAGE).nonzero().flatten()
    breaks = (where.diff() != 1) | (row[where].diff() != 0)
    firsts = torch.cat([where[:1], where[1:][breaks]])
    lasts = torch.cat([where[:-1][breaks], where[-1:]])
    if len(firsts) != len(grids):
        expected = f"of {len(grids)} runs of image tokens, as in image_grid_thw"
        raise ShapeError("token_types", expected, len(firsts))
    marks = lasts - firsts + 1 - sizes
    if bool(((marks != 0) & (marks != 2)).any()):
        expected = f"of runs of {sizes[:8].tolist()} image tokens, or 2 more each"
        raise ShapeError("token_types", expected, (lasts - firsts + 1)[:8].tolist())
    image = torch.arange(len(grids)).repeat_interleave(sizes)
    index = torch.arange(len(image)) - (sizes.cumsum(0) - sizes)[image]
    return (firsts + marks // 2)[image] + index, image, index
