"""XD-RoPE: positions on four axes for text with images in it (HunyuanVL)."""

import torch
from torch import Tensor

from rope_core.errors import ShapeError
from rope_core.positions import validate
from rope_core.positions.mrope import MropeIds, given_grids
from rope_core.positions.tokens import IMAGE, check_types, kept_tokens


def xdrope_index(
    *,
    token_types: Tensor,
    image_grid_thw: Tensor | None = None,
    attention_mask: Tensor | None = None,
    spatial_merge_size: int = 2,
    axes: int = 4,
) -> MropeIds:
    """Return XD-RoPE positions of text and images (HunyuanVL): sequence, column, row, image.

    Every token counts on all axes. A patch has its column, its row and the number of its image
    on the last three instead, each from 0; a line break ends each row of patches and is a column
    more. The marks before and behind an image may be of the image's type or of text's.

    Args:
        token_types: int64 `[S]` or `[B, S]`: 0 text, 1 image.
        image_grid_thw: int64 `[images, 3]`: one frame, rows, columns, in patches before merging;
            in the order of their tokens, row after row of the batch.
        attention_mask: 1 for tokens, 0 for padding, as `token_types`; padding gets 0.
        spatial_merge_size: patches that are merged along a row and along a column.
        axes: 3 or more, the length of the model's section list; 4 in its published files.

    Returns:
        int64 positions `[axes, B, S]` (`[axes, S]`) and rope_delta `[B]` (`[]`).
    """
    validate.whole("spatial_merge_size", spatial_merge_size, 1, 2**12)
    validate.whole("axes", axes, 3, 16)
    types = check_types(token_types, IMAGE)
    validate.few("axes", axes * types.numel())
    mask = kept_tokens(attention_mask, types)
    grids = given_grids("image_grid_thw", image_grid_thw, 1, spatial_merge_size)
    if bool((grids[:, 0] != 1).any()):
        raise ShapeError("image_grid_thw", "of one frame each", grids[:8].tolist())

    kept, lengths = types[mask], mask.sum(-1).reshape(-1)
    row = torch.arange(len(lengths)).repeat_interleave(lengths)
    starts = lengths.cumsum(0) - lengths
    counted = (torch.arange(len(kept)) - starts[row]).repeat(axes, 1)
    where, image, index = _patches(kept, row, grids)
    columns = grids[image, 2] + 1
    counted[-3:, where] = torch.stack([index % columns, index // columns, image])
    positions = torch.zeros(axes, *types.shape, dtype=torch.int64)
    positions[:, mask] = counted
    return MropeIds(positions, positions.amax(0).amax(-1) + 1 - mask.sum(-1))


def _patches(kept: Tensor, row: Tensor, grids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return where patches and line breaks are, of which image, and their index in it."""
    spans = grids[:, 1] * (grids[:, 2] + 1)
    at = (kept == IMAGE).nonzero().flatten()
    breaks = (at.diff() != 1) | (row[at].diff() != 0)
    firsts = torch.cat([at[:1], at[1:][breaks]])
    lasts = torch.cat([at[:-1][breaks], at[-1:]])
    if len(firsts) != len(grids):
        expected = f"of {len(grids)} runs of image tokens, as image_grid_thw"
        raise ShapeError("token_types", expected, len(firsts))
    marks = lasts - firsts + 1 - spans
    if bool(((marks != 0) & (marks != 2)).any()):
        expected = f"of runs of {spans[:8].tolist()} image tokens, or 2 more each"
        raise ShapeError("token_types", expected, (lasts - firsts + 1)[:8].tolist())
    image = torch.arange(len(grids)).repeat_interleave(spans)
    index = torch.arange(len(image)) - (spans.cumsum(0) - spans)[image]
    return (firsts + marks // 2)[image] + index, image, index
