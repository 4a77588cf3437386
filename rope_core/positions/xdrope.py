"""XD-RoPE: positions on four axes of text with images (HunyuanVL)."""

import torch
from torch import Tensor

from rope_core.errors import ShapeError
from rope_core.positions import validate
from rope_core.positions.grids import MAX_MERGE, optional_grids
from rope_core.positions.mrope import MropePositions
from rope_core.positions.tokens import IMAGE, Prompt, read_prompt


def xdrope_index(
    *,
    token_types: Tensor,
    image_grid_thw: Tensor | None = None,
    attention_mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    spatial_merge_size: int = 2,
    axes: int = 4,
) -> MropePositions:
    """Return XD-RoPE positions of text and images (HunyuanVL): sequence, column, row, image.

    Every token counts on all axes. On the last three, a patch has its column, its row and the
    number of its image instead, each from 0. A line break ends each row of patches and is one more
    column. The marks before and after an image can be of the type image or text. Images are counted
    through all rows of a batch, as in transformers, but from 0 in each document of a pack.

    Models: hunyuan_vl.

    Args:
        token_types: int64 `[S]` or `[B, S]`: 0 text, 1 image.
        image_grid_thw: int64 `[images, 3]`: one frame, rows, columns, in patches before merging,
            in the order of their tokens, one row of the batch after the other.
        attention_mask: 1 for tokens, 0 for padding, of the shape of `token_types`; padding is at 0.
        cu_seqlens: int64 or int32 `[documents + 1]`: where packed documents start in `[S]`, from 0
            to S. Positions start from 0 in each document.
        spatial_merge_size: number of patches that are merged along a row and along a column.
        axes: 3 or more, the length of the model's section list; 4 in its published files.

    Returns:
        int64 positions `[axes, B, S]` (`[axes, S]`) and rope_delta `[B]` (`[]`; of a pack
        `[documents]`).
    """
    merge = validate.integer("spatial_merge_size", spatial_merge_size, 1, MAX_MERGE)
    validate.integer("axes", axes, 3, 16)
    prompt = read_prompt(token_types, attention_mask, cu_seqlens, IMAGE)
    validate.count("axes", axes * prompt.mask.numel())
    grids = optional_grids("image_grid_thw", image_grid_thw, merge)
    if bool((grids[:, 0] != 1).any()):
        raise ShapeError("image_grid_thw", "of one frame each", grids[:8].tolist())

    sequence = prompt.sequence
    positions = (torch.arange(len(sequence)) - prompt.starts[sequence]).repeat(axes, 1)
    where, image, index = _patches(prompt, grids)
    columns = grids[image, 2] + 1
    number = image
    if prompt.is_packed:
        of_image = sequence[where]
        first = image.new_full(prompt.lengths.shape, len(grids))
        number = image - first.scatter_reduce(0, of_image, image, "amin")[of_image]
    positions[-3:, where] = torch.stack([index % columns, index // columns, number])
    return MropePositions.of(positions, prompt, padding=0)


def _patches(prompt: Prompt, grids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the places of patches and line breaks, their images, and their index in the image."""
    sizes = grids[:, 1] * (grids[:, 2] + 1)
    where, sequence = (prompt.types == IMAGE).nonzero().flatten(), prompt.sequence
    breaks = (where.diff() != 1) | (sequence[where].diff() != 0)
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
