"""M-RoPE: positions on three axes (time, height, width) of text with images and videos."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from rope_core.checks import check_choice, shape_of
from rope_core.errors import ConfigError, ShapeError
from rope_core.positions import validate
from rope_core.positions.grids import MAX_MERGE, optional_grids
from rope_core.positions.tokens import IMAGE, VIDEO, Prompt, read_prompt

COMPATS = ("5.23", "4.57")


@dataclass(frozen=True)
class MropePositions:
    """Positions of a prompt, and the delta from its length to the position of the next token."""

    positions: Tensor
    """int64 `[axes, B, S]` or `[axes, S]`; float32 in a family with fractional positions."""
    rope_delta: Tensor
    """`[B]`, `[]` or `[documents]`, of the dtype of `positions`: decoding continues at the number
    of tokens + delta."""

    @classmethod
    def of(
        cls,
        tokens: Tensor,
        prompt: Prompt,
        padding: int,
        length: int | Tensor | None = None,
        counts_padding: bool = False,
    ) -> "MropePositions":
        """Return positions `[axes, N]` of the N tokens of a prompt, put at their places.

        Args:
            tokens: positions of the tokens, one sequence after the other.
            prompt: where the tokens are.
            padding: position of padding.
            length: number that the delta is counted from; the tokens of each sequence if None.
            counts_padding: whether padding can have the largest position.
        """
        mask = prompt.mask
        positions = tokens.new_full((len(tokens), *mask.shape), padding)
        positions[:, mask] = tokens
        last = tokens.new_full(prompt.lengths.shape, -1)
        last = last.scatter_reduce(0, prompt.sequence, tokens.amax(0), "amax")
        if counts_padding and not bool(mask.all()):
            last = torch.where(mask.all(-1).reshape(-1), last, last.clamp(min=padding))
        delta = last + 1 - (prompt.lengths if length is None else length)
        return cls(positions, delta if prompt.is_packed or mask.ndim == 2 else delta[0])


@dataclass(frozen=True)
class MropeFamily:
    """How a family counts positions of videos."""

    splits_frames: bool = False
    """A video is a block of tokens for each frame, with text (timestamps) between blocks."""
    uses_seconds: bool = False
    """The distance of frames is their distance in seconds."""
    merges_time: bool = False
    """`temporal_merge_size` frames of a video become one."""
    in_4_57: bool = False
    """transformers 4.57 has the family."""


_SPLIT = MropeFamily(splits_frames=True)
_SPLIT_IN_4_57 = MropeFamily(splits_frames=True, in_4_57=True)

MROPE_FAMILIES: Mapping[str, MropeFamily] = MappingProxyType(
    {
        "qwen2_vl": MropeFamily(in_4_57=True),
        "paddleocr_vl": MropeFamily(),
        "qwen2_5_vl": MropeFamily(uses_seconds=True, in_4_57=True),
        "ernie4_5_vl_moe": MropeFamily(merges_time=True),
        **dict.fromkeys(("qwen3_vl", "qwen3_vl_moe", "glm4v", "glm4v_moe"), _SPLIT_IN_4_57),
        **dict.fromkeys(("glm46v", "glm_ocr", "qwen3_5", "qwen3_5_moe", "qwen4_exp"), _SPLIT),
        **dict.fromkeys(("cohere_compass", "cosmos3_edge", "cosmos3_omni"), _SPLIT),
    }
)
"""The families of `mrope_index`, by the `model_type` of their config."""


@dataclass(frozen=True)
class _Blocks:
    """The blocks of tokens of images, or of videos."""

    thw: Tensor
    """Frames, rows and columns of merged patches: int64 `[N, 3]`."""
    interval: Tensor | None = None
    """Positions from one frame to the next: `[N]`; 1 if None."""

    def frame_positions(self, frame: Tensor, block: Tensor) -> Tensor:
        """Return the time position of each `frame` of `block`, from the start of the block."""
        return frame if self.interval is None else (frame * self.interval[block]).long()


def mrope_index(
    *,
    token_types: Tensor,
    image_grid_thw: Tensor | None = None,
    video_grid_thw: Tensor | None = None,
    attention_mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    second_per_grid_ts: Tensor | None = None,
    family: str = "qwen2_vl",
    spatial_merge_size: int = 2,
    temporal_merge_size: int = 2,
    tokens_per_second: float = 4.0,
    compat: str = "5.23",
) -> MropePositions:
    """Return M-RoPE positions of text, images and videos, and the delta that decoding adds.

    Text advances all axes by 1. An image or video that starts at p has p + time, p + row and
    p + column. Text continues at p + max(rows, columns); in transformers 4.57, after the largest
    position. Grids are in the order of their tokens, one row of the batch after the other. The
    rules are those of `get_rope_index` in each family's `modeling_*.py` of transformers.

    Models: qwen2_vl, paddleocr_vl, qwen2_5_vl, ernie4_5_vl_moe, qwen3_vl, qwen3_vl_moe, glm4v,
    glm4v_moe, glm46v, glm_ocr, qwen3_5, qwen3_5_moe, qwen4_exp, cohere_compass, cosmos3_edge,
    cosmos3_omni.

    Args:
        token_types: int64 `[S]` or `[B, S]`: 0 text, 1 image, 2 video (see `token_types`).
        image_grid_thw: int64 `[images, 3]`: frames, rows, columns, in patches before merging.
        video_grid_thw: int64 `[videos, 3]`.
        attention_mask: 1 for tokens, 0 for padding, of the shape of `token_types`; padding is at
            position 0 (1 in 4.57) and does not count.
        cu_seqlens: int64 or int32 `[documents + 1]`: where packed documents start in `[S]`, from 0
            to S. Positions start from 0 in each document.
        second_per_grid_ts: float `[videos]`, seconds from one frame of a grid to the next, for
            `qwen2_5_vl`; 1 each if None. 4.57 truncates them to whole seconds.
        family: the `model_type`, which decides how videos are counted.
        spatial_merge_size: number of patches that are merged along a row and along a column.
        temporal_merge_size: number of frames that are merged (`ernie4_5_vl_moe`).
        tokens_per_second: positions per second (`qwen2_5_vl`; its published files have 2).
        compat: "5.23" or "4.57", the transformers version to follow.

    Returns:
        int64 positions `[3, B, S]` (`[3, S]`) and rope_delta `[B]` (`[]`; of a pack
        `[documents]`): the largest position + 1 - the number of tokens without padding (4.57: with
        padding).

    Raises:
        ConfigError: unknown family or version; a merge below 1; an option out of range.
        ShapeError: merging does not divide a grid, or grids do not fit the types of the tokens.

    >>> types, grid = torch.tensor([0, 1, 1, 0]), torch.tensor([[1, 2, 4]])
    >>> mrope_index(token_types=types, image_grid_thw=grid).positions.tolist()
    [[0, 1, 1, 3], [0, 1, 1, 3], [0, 1, 2, 3]]
    """
    check_choice("family", family, MROPE_FAMILIES)
    check_choice("compat", compat, COMPATS)
    rules, is_4_57 = MROPE_FAMILIES[family], compat == "4.57"
    if is_4_57 and not rules.in_4_57:
        names = ", ".join(name for name, other in MROPE_FAMILIES.items() if other.in_4_57)
        raise ConfigError("family", f"one that transformers 4.57 has: {names}", family)
    merge = validate.integer("spatial_merge_size", spatial_merge_size, 1, MAX_MERGE)
    validate.integer("temporal_merge_size", temporal_merge_size, 1, MAX_MERGE)
    prompt = read_prompt(token_types, attention_mask, cu_seqlens, VIDEO)
    images = optional_grids("image_grid_thw", image_grid_thw, merge)
    time_merge = temporal_merge_size if rules.merges_time else 1
    videos = optional_grids("video_grid_thw", video_grid_thw, merge, time_merge)
    if second_per_grid_ts is not None and not rules.uses_seconds:
        names = ", ".join(name for name, other in MROPE_FAMILIES.items() if other.uses_seconds)
        raise ConfigError("second_per_grid_ts", f"absent except in family {names}", family)

    image_blocks, video_blocks = _Blocks(images), _Blocks(videos)
    if rules.uses_seconds:
        interval = _interval(second_per_grid_ts, videos, tokens_per_second, is_4_57)
        image_blocks = _Blocks(images, torch.zeros(len(images)) if is_4_57 else None)
        video_blocks = _Blocks(videos, interval)
    if rules.splits_frames:
        frames = videos.repeat_interleave(videos[:, 0], 0)
        video_blocks = _Blocks(torch.cat([torch.ones_like(frames[:, :1]), frames[:, 1:]], 1))
    positions = _positions(prompt, {IMAGE: image_blocks, VIDEO: video_blocks}, is_4_57)
    text_alone = image_grid_thw is None and video_grid_thw is None
    return MropePositions.of(
        positions,
        prompt,
        padding=1 if is_4_57 else 0,
        length=prompt.padded_length if is_4_57 else None,
        counts_padding=is_4_57 and text_alone,
    )


def read_seconds(seconds: Tensor, videos: Tensor) -> Tensor:
    """Return `second_per_grid_ts`, float `[videos]`, of the `videos` `[videos, 3]`."""
    seconds = validate.float_tensor("second_per_grid_ts", seconds, "[videos]", 1)
    if len(seconds) != len(videos):
        raise ShapeError("second_per_grid_ts", f"[{len(videos)}]", shape_of(seconds))
    if not bool(((seconds >= 0) & (seconds <= 2**20)).all()):
        raise ShapeError("second_per_grid_ts", f"from 0 to {2**20} seconds", "others")
    return seconds


def _interval(seconds: Tensor | None, videos: Tensor, rate: float, is_4_57: bool) -> Tensor:
    """Return positions from frame to frame `[videos]`, in the arithmetic of transformers."""
    validate.number("tokens_per_second", rate, 0, 2**20)
    dtype = torch.float64 if float(rate).is_integer() else torch.float32
    if seconds is None:
        return torch.full((len(videos),), rate, dtype=dtype)
    seconds = read_seconds(seconds, videos)
    return rate * (seconds.long().to(dtype) if is_4_57 else seconds)


def _positions(prompt: Prompt, blocks: Mapping[int, _Blocks], is_4_57: bool) -> Tensor:
    """Return int64 positions `[3, N]` of the N tokens of `prompt`, one sequence after the other."""
    kept, sequence = prompt.types, prompt.sequence
    inside = torch.zeros(3, len(kept), dtype=torch.int64)  # from the start of the token's block
    advance = torch.ones_like(kept)  # of all axes, after each token
    for kind, group in blocks.items():
        where = (kept == kind).nonzero().flatten()
        frames, height, width = group.thw.unbind(-1)
        sizes = group.thw.prod(-1)
        _check_runs("image" if kind == IMAGE else "video", sizes, where, sequence)
        block = torch.arange(len(sizes)).repeat_interleave(sizes)
        ends = sizes.cumsum(0)
        index = torch.arange(len(where)) - (ends - sizes)[block]
        time = group.frame_positions(index // (height * width)[block], block)
        inside[:, where] = torch.stack(
            [time, index // width[block] % height[block], index % width[block]]
        )
        advance[where] = 0
        extent = torch.maximum(height, width)
        if is_4_57:
            last = group.frame_positions(frames - 1, torch.arange(len(sizes)))
            extent = torch.maximum(extent, last + 1)
        advance[where[ends - 1]] = extent
    before = advance.cumsum(0) - advance
    return before - before[prompt.starts[sequence]] + inside


def _check_runs(name: str, sizes: Tensor, where: Tensor, sequence: Tensor) -> None:
    """Check that the tokens `where` are runs of `sizes`, each inside one sequence."""
    total, grids = int(sizes.sum()), f"{name}_grid_thw"
    if total != len(where):
        raise ShapeError("token_types", f"of {total} {name} tokens, as in {grids}", f"{len(where)}")
    ends = sizes.cumsum(0)
    first, last = where[ends - sizes], where[ends - 1]
    if bool(((last - first != sizes - 1) | (sequence[first] != sequence[last])).any()):
        inside = f"inside the tokens of one {name} grid"
        expected = f"without a break, or the end of a row or document, {inside}"
        raise ShapeError("token_types", expected, "one")
