"""M-RoPE: three positions a token (time, height, width) for text with images and videos in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from rope_core.checks import shape_of
from rope_core.errors import ConfigError, ShapeError
from rope_core.positions import validate
from rope_core.positions.grids import merged
from rope_core.positions.tokens import IMAGE, VIDEO, check_types, kept_tokens

COMPAT = ("5.23", "4.57")


@dataclass(frozen=True)
class MropeIds:
    """Positions on the axes, and what turns a length into the position of the next token."""

    positions: Tensor
    """`[axes, B, S]`, or `[axes, S]`; int64, float32 where a family has fractional ones."""
    rope_delta: Tensor
    """`[B]`, or without dimensions: decoding goes on at length + delta; dtype of `positions`."""


@dataclass(frozen=True)
class _Rule:
    frames_apart: bool = False
    """A video is blocks of one frame, with text (timestamps) between them."""
    timed: bool = False
    """Frames of a video are as far apart as their seconds."""
    merges_time: bool = False
    """`temporal_merge_size` frames of a video become one."""
    in_4_57: bool = False
    """transformers 4.57 has the family."""


_FRAMES = _Rule(frames_apart=True)
_FRAMES_OLD = _Rule(frames_apart=True, in_4_57=True)

FAMILIES: Mapping[str, _Rule] = MappingProxyType(
    {
        "qwen2_vl": _Rule(in_4_57=True),
        "paddleocr_vl": _Rule(),
        "qwen2_5_vl": _Rule(timed=True, in_4_57=True),
        "ernie4_5_vl_moe": _Rule(merges_time=True),
        "qwen3_vl": _FRAMES_OLD,
        "qwen3_vl_moe": _FRAMES_OLD,
        "glm4v": _FRAMES_OLD,
        "glm4v_moe": _FRAMES_OLD,
        "glm46v": _FRAMES,
        "glm_ocr": _FRAMES,
        "qwen3_5": _FRAMES,
        "qwen3_5_moe": _FRAMES,
        "qwen4_exp": _FRAMES,
        "cohere_compass": _FRAMES,
        "cosmos3_edge": _FRAMES,
        "cosmos3_omni": _FRAMES,
    }
)
"""The families of `mrope_index`, by the `model_type` of their config."""


@dataclass(frozen=True)
class _Blocks:
    """What a grid is to the language model, for each image or for each video."""

    thw: Tensor
    """Frames, rows and columns of merged patches: int64 `[N, 3]`."""
    interval: Tensor | None = None
    """Positions from a frame to the next: `[N]`; 1 where None."""

    def steps(self, frame: Tensor, block: Tensor) -> Tensor:
        """Return the time position of `frame` of `block`, from the block's start."""
        return frame if self.interval is None else (frame * self.interval[block]).long()


def mrope_index(
    *,
    token_types: Tensor,
    image_grid_thw: Tensor | None = None,
    video_grid_thw: Tensor | None = None,
    attention_mask: Tensor | None = None,
    second_per_grid_ts: Tensor | None = None,
    family: str = "qwen2_vl",
    spatial_merge_size: int = 2,
    temporal_merge_size: int = 2,
    tokens_per_second: float = 4.0,
    compat: str = "5.23",
) -> MropeIds:
    """Return M-RoPE positions of text, images and videos, and the delta that decoding adds.

    Text moves all axes by 1. An image or video that starts at p has p + time, p + row, p + column.
    Text then goes on at p + max(rows, columns), or, as transformers 4.57 had it, behind the
    largest position. Grids are taken in the order of their tokens, row after row of the batch.

    Args:
        token_types: int64 `[S]` or `[B, S]`: 0 text, 1 image, 2 video (see `token_types`).
        image_grid_thw: int64 `[images, 3]`: frames, rows, columns, in patches before merging.
        video_grid_thw: int64 `[videos, 3]`.
        attention_mask: 1 for tokens, 0 for padding, as `token_types`; padding gets position 0
            (1 in 4.57) and does not count.
        second_per_grid_ts: float `[videos]`, seconds from a frame of a grid to the next, for
            `qwen2_5_vl`; 1 each where None. 4.57 cuts them to whole seconds.
        family: one of `FAMILIES`: how videos are counted.
        spatial_merge_size: patches that are merged along a row and along a column.
        temporal_merge_size: frames that are merged (`ernie4_5_vl_moe`).
        tokens_per_second: positions a second (`qwen2_5_vl`; its published files say 2).
        compat: "5.23" or "4.57", the transformers release whose positions these are.

    Returns:
        int64 positions `[3, B, S]` (`[3, S]`) and rope_delta `[B]` (`[]`), which is the largest
        position + 1 - the tokens without padding (4.57: with it).

    Raises:
        ConfigError: unknown family or release; a merge below 1; an option out of range.
        ShapeError: grids that merging does not divide, or that do not fit the tokens' types.

    >>> types, grid = torch.tensor([0, 1, 1, 0]), torch.tensor([[1, 2, 4]])
    >>> mrope_index(token_types=types, image_grid_thw=grid).positions.tolist()
    [[0, 1, 1, 3], [0, 1, 1, 3], [0, 1, 2, 3]]
    """
    validate.one_of("family", family, list(FAMILIES))
    validate.one_of("compat", compat, COMPAT)
    rule, old = FAMILIES[family], compat == "4.57"
    if old and not rule.in_4_57:
        names = ", ".join(name for name, each in FAMILIES.items() if each.in_4_57)
        raise ConfigError("family", f"one that transformers 4.57 has: {names}", family)
    validate.whole("spatial_merge_size", spatial_merge_size, 1, 2**12)
    validate.whole("temporal_merge_size", temporal_merge_size, 1, 2**12)
    types = check_types(token_types, VIDEO)
    mask = kept_tokens(attention_mask, types)

    images = given_grids("image_grid_thw", image_grid_thw, 1, spatial_merge_size)
    time_merge = temporal_merge_size if rule.merges_time else 1
    videos = given_grids("video_grid_thw", video_grid_thw, time_merge, spatial_merge_size)
    image_blocks, video_blocks = _Blocks(images), _Blocks(videos)
    if rule.timed:
        still = torch.zeros(len(images)) if old else None
        interval = _interval(second_per_grid_ts, videos, tokens_per_second, old)
        image_blocks, video_blocks = _Blocks(images, still), _Blocks(videos, interval)
    elif second_per_grid_ts is not None:
        raise ConfigError("second_per_grid_ts", "absent but for family qwen2_5_vl", family)
    if rule.frames_apart:
        frame = torch.tensor([1, 0, 0])
        apart = videos.repeat_interleave(videos[:, 0], 0) * (1 - frame) + frame
        video_blocks = _Blocks(apart)

    positions = torch.full((3, *types.shape), 1 if old else 0)
    kept = _count(types, mask, {IMAGE: image_blocks, VIDEO: video_blocks}, old)
    positions[:, mask] = kept
    whole_rows = old and image_grid_thw is None and video_grid_thw is None
    counted = positions if whole_rows else positions.masked_fill(~mask, -1)
    lengths = types.shape[-1] if old else mask.sum(-1)
    return MropeIds(positions, counted.amax(0).amax(-1) + 1 - lengths)


def given_grids(name: str, grids: Tensor | None, time_merge: int, spatial_merge: int) -> Tensor:
    """Return grids `[N, 3]` in merged patches; `[0, 3]` where there are none."""
    if grids is None:
        return torch.zeros(0, 3, dtype=torch.int64)
    return merged(name, grids, time_merge, spatial_merge)


def check_seconds(seconds: Tensor, videos: Tensor) -> Tensor:
    """Return seconds from frame to frame, one for each of `videos`."""
    seconds = validate.fractions("second_per_grid_ts", seconds, "[videos]", (1,))
    if len(seconds) != len(videos):
        raise ShapeError("second_per_grid_ts", f"[{len(videos)}]", shape_of(seconds))
    if not bool(((seconds >= 0) & (seconds <= 2**20)).all()):
        raise ShapeError("second_per_grid_ts", f"from 0 to {2**20} seconds", "others")
    return seconds


def _interval(seconds: Tensor | None, videos: Tensor, rate: float, old: bool) -> Tensor:
    """Return positions from frame to frame, in the arithmetic that transformers does them in."""
    validate.real("tokens_per_second", rate, 0, 2**20)
    exact = torch.float64 if float(rate).is_integer() else torch.float32
    if seconds is None:
        return torch.full((len(videos),), rate, dtype=exact)
    seconds = check_seconds(seconds, videos)
    return rate * (seconds.long().to(exact) if old else seconds)


def _count(types: Tensor, mask: Tensor, blocks: Mapping[int, _Blocks], old: bool) -> Tensor:
    """Return positions `[3, N]` of the N tokens that `mask` keeps, rows end to end."""
    kept, rows = types[mask], mask.sum(-1).reshape(-1)
    row = torch.arange(len(rows)).repeat_interleave(rows)
    inside = torch.zeros(3, len(kept), dtype=torch.int64)
    advance = torch.ones_like(kept)  # of all axes, behind each token
    for kind, each in blocks.items():
        where = (kept == kind).nonzero().flatten()
        frames, height, width = each.thw.unbind(-1)
        lengths = each.thw.prod(-1)
        _check_fit(kind, lengths, where, row)
        block = torch.arange(len(lengths)).repeat_interleave(lengths)
        ends = lengths.cumsum(0)
        index = torch.arange(len(where)) - (ends - lengths)[block]
        time = each.steps(index // (height * width)[block], block)
        inside[:, where] = torch.stack(
            [time, index // width[block] % height[block], index % width[block]]
        )
        advance[where] = 0
        extent = torch.maximum(height, width)
        if old:
            last = each.steps(frames - 1, torch.arange(len(lengths)))
            extent = torch.maximum(extent, last + 1)
        advance[where[ends - 1]] = extent
    before = advance.cumsum(0) - advance
    return before - before[rows.cumsum(0) - rows][row] + inside


def _check_fit(kind: int, lengths: Tensor, where: Tensor, row: Tensor) -> None:
    """Check that the tokens at `where` are runs of `lengths`, each in one row."""
    name = "image" if kind == IMAGE else "video"
    if int(lengths.sum()) != len(where):
        expected = f"of {int(lengths.sum())} {name} tokens, as {name}_grid_thw"
        raise ShapeError("token_types", expected, f"{len(where)}")
    last = lengths.cumsum(0) - 1
    first, last = where[last + 1 - lengths], where[last]
    if bool(((last - first != lengths - 1) | (row[first] != row[last])).any()):
        raise ShapeError(
            "token_types", f"without a break inside the tokens of one {name} grid", "one"
        )
