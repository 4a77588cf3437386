"""M-RoPE of Qwen-Omni: time in seconds for video and sound, and both interleaved."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rope_core.errors import ConfigError, ShapeError
from rope_core.positions import validate
from rope_core.positions.grids import spread
from rope_core.positions.mrope import MropeIds, check_seconds, given_grids
from rope_core.positions.tokens import AUDIO, IMAGE, TEXT, VIDEO, check_types, kept_tokens

RATES = {"qwen2_5_omni": 25, "qwen3_omni_moe": 13}
"""Families, and the positions a second of their published files."""

MAX_RUNS = 2**14
"""Most images, videos and sounds of one call."""


@dataclass
class _Grids:
    """Grids that are not taken yet, as tokens are walked through."""

    images: list[list[int]]
    videos: list[list[int]]
    seconds: list[Tensor]


def omni_mrope_index(
    *,
    token_types: Tensor,
    image_grid_thw: Tensor | None = None,
    video_grid_thw: Tensor | None = None,
    second_per_grid_ts: Tensor | None = None,
    attention_mask: Tensor | None = None,
    family: str = "qwen2_5_omni",
    spatial_merge_size: int = 2,
    position_id_per_seconds: int | None = None,
    seconds_per_chunk: float = 2.0,
) -> MropeIds:
    """Return M-RoPE positions of text, images, videos and sound (Qwen2.5-Omni, Qwen3-Omni).

    Sound counts as text does. Frames are as far apart as their seconds, and what follows a block
    starts behind its largest position. A run of video and audio tokens is a video with its sound:
    both start together, by chunks of `seconds_per_chunk` (Qwen2.5) or token by token (Qwen3);
    in Qwen2.5 its two start marks share a position, and so do its two end marks.

    Args:
        token_types: int64 `[S]` or `[B, S]`: 0 text, 1 image, 2 video, 3 audio. Each run of
            another type has a mark of type 0 before and behind it, a video with sound has two.
        image_grid_thw: int64 `[images, 3]`: frames, rows, columns, in patches before merging.
        video_grid_thw: int64 `[videos, 3]`.
        second_per_grid_ts: float `[videos]`, seconds from a frame of a grid to the next.
        attention_mask: 1 for tokens, 0 for padding, as `token_types`. Padding gets position 1, and
            0 in Qwen3 where there are grids.
        family: "qwen2_5_omni", whole positions, or "qwen3_omni_moe", fractional ones.
        spatial_merge_size: patches that are merged along a row and along a column.
        position_id_per_seconds: positions a second; the family's where None (25, 13).
        seconds_per_chunk: of video with sound, Qwen2.5.

    Returns:
        positions `[3, B, S]` (`[3, S]`) and rope_delta `[B]` (`[]`), int64; float32 in Qwen3.
    """
    validate.one_of("family", family, list(RATES))
    validate.whole("spatial_merge_size", spatial_merge_size, 1, 2**12)
    rate = RATES[family] if position_id_per_seconds is None else position_id_per_seconds
    validate.whole("position_id_per_seconds", rate, 1, 2**12)
    chunk = int(rate * validate.real("seconds_per_chunk", seconds_per_chunk, 0, 2**12))
    if not chunk:
        raise ConfigError("seconds_per_chunk", "of one position at least", seconds_per_chunk)
    types = check_types(token_types, AUDIO)
    mask = kept_tokens(attention_mask, types)
    images = given_grids("image_grid_thw", image_grid_thw, 1, spatial_merge_size)
    videos = given_grids("video_grid_thw", video_grid_thw, 1, spatial_merge_size)
    if second_per_grid_ts is not None:
        seconds = check_seconds(second_per_grid_ts, videos).float()
    elif len(videos):
        raise ConfigError("second_per_grid_ts", "given with videos", None)
    else:
        seconds = torch.zeros(0)

    whole = family == "qwen2_5_omni"
    grids = _Grids(images.tolist(), videos.tolist(), list(seconds))
    walk = _Walk(grids, rate, chunk, whole)
    bare = image_grid_thw is None and video_grid_thw is None
    padding = 1 if whole or bare else 0
    dtype = torch.int64 if whole else torch.float32
    rows = [walk.row(kept[used]) for kept, used in zip(_rows(types), _rows(mask), strict=True)]
    if grids.images or grids.videos:
        left = f"{len(grids.images)} image and {len(grids.videos)} video grids more"
        raise ShapeError("token_types", "of tokens for every grid", left)
    positions = torch.full((3, *types.shape), padding, dtype=dtype)
    positions[:, mask] = torch.cat(rows, 1).to(dtype)
    counted = positions if bare else positions.masked_fill(~mask, -1)
    return MropeIds(positions, counted.amax(0).amax(-1) + 1 - mask.sum(-1))


class _Walk:
    """Walks through rows of token types and takes their grids one after the other."""

    def __init__(self, grids: _Grids, rate: int, chunk: int, whole: bool) -> None:
        self._grids = grids
        self._rate = rate
        self._chunk = chunk
        self._whole = whole
        self._runs = 0

    def row(self, types: Tensor) -> Tensor:
        """Return the positions `[3, S]` of a row without padding."""
        spans, parts = _spans(types), []
        self._runs += len(spans)
        if self._runs > MAX_RUNS:
            raise ShapeError("token_types", f"of at most {MAX_RUNS} runs", "more")
        at, done, marks = torch.tensor(0 if self._whole else 0.0), 0, 0
        for start, end in spans:
            run = types[start:end]
            before, marks = marks, 1 if bool((run == run[0]).all()) else 2
            middle = start - done - before - marks
            if middle < 0:
                expected = "of text before and behind each run of another type"
                raise ShapeError("token_types", expected, f"{start - done} tokens of it")
            ends, at = self._marks(at, before)
            texts, at = _count(at, middle), at + middle
            starts, at = self._marks(at, marks)
            block, last = self._block(run, at)
            parts += [ends, texts, starts, block]
            at, done = last.max() + 1, end
        if len(types) - done < marks:
            raise ShapeError("token_types", "of text behind each run of another type", "none")
        ends, at = self._marks(at, marks)
        return torch.cat([*parts, ends, _count(at, len(types) - done - marks)], 1)

    def _marks(self, at: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return the marks beside a block, and what follows them; two share a position."""
        marks = at.expand(3, count) if self._whole else _count(at, count)
        return marks, marks.max() + 1 if count else at

    def _block(self, run: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Return positions of a run of one type, or of video and sound, and of its last part."""
        kinds = sorted(set(run.tolist()))
        sound = _count(at, int((run == AUDIO).sum()))
        if kinds == [AUDIO]:
            return sound, sound
        if kinds == [IMAGE]:
            block = self._vision(self._grids.images, "image", torch.tensor(1), at)
            return _fitting(block, run), block
        seconds = self._grids.seconds.pop(0) if self._grids.seconds else torch.tensor(1.0)
        video = self._vision(self._grids.videos, "video", seconds, at)
        if kinds == [VIDEO]:
            return _fitting(video, run), video
        both = torch.cat([video, sound], 1)
        order, last = self._interleave(video[0], sound[0], at)
        expected = torch.where(order < video.shape[1], VIDEO, AUDIO)
        if kinds != [VIDEO, AUDIO] or not torch.equal(expected, run):
            raise ShapeError("token_types", "of video and audio interleaved by time", "another run")
        return both[:, order], both[:, order[last:]]

    def _vision(self, grids: list[list[int]], name: str, seconds: Tensor, at: Tensor) -> Tensor:
        """Return positions `[3, N]` of the next grid."""
        if not grids:
            raise ShapeError("token_types", f"of runs of {name} tokens as {name}_grid_thw", "more")
        frames, rows, columns = grids.pop(0)
        time = torch.arange(frames) * seconds * self._rate
        time = time.long() if self._whole else time.float()
        sides = [torch.arange(side).to(time.dtype) for side in (rows, columns)]
        return spread([time, *sides]) + at

    def _interleave(self, video: Tensor, sound: Tensor, at: Tensor) -> tuple[Tensor, int]:
        """Return the order of video and sound by their times, and where its last part starts."""
        if not self._whole:
            order = torch.cat([video, sound]).argsort(stable=True)
            kind = order < len(video)
            return order, int((kind != kind[-1]).nonzero()[-1]) + 1
        cuts = [_cuts(time - at, self._chunk) for time in (video, sound)]
        parts: list[Tensor] = []
        for i in range(max(len(each) for each in cuts) - 1):
            for first, each in zip((0, len(video)), cuts, strict=True):
                if i + 1 < len(each):
                    parts.append(torch.arange(each[i], each[i + 1]) + first)
        return torch.cat(parts), sum(len(part) for part in parts[:-1])


def _count(at: Tensor, length: int) -> Tensor:
    return (torch.arange(length) + at).expand(3, -1)


def _cuts(time: Tensor, chunk: int) -> list[int]:
    """Return where chunks start and end: at the first token of each later chunk, one at a time."""
    wanted = torch.searchsorted(time, torch.arange(1, len(time) + 1) * chunk)
    order = torch.arange(len(time))
    found = (wanted - order).cummax(0).values + order
    return [0, *found[found < len(time)].tolist(), len(time)]


def _spans(types: Tensor) -> list[tuple[int, int]]:
    """Return start and end of each run that is no text."""
    edges = torch.nn.functional.pad((types != TEXT).long(), (1, 1)).diff()
    starts, ends = ((edges == way).nonzero().flatten().tolist() for way in (1, -1))
    return list(zip(starts, ends, strict=True))


def _rows(tensor: Tensor) -> list[Tensor]:
    return list(tensor) if tensor.ndim == 2 else [tensor]


def _fitting(block: Tensor, run: Tensor) -> Tensor:
    if block.shape[1] != len(run):
        raise ShapeError("token_types", f"of runs as long as grids, {block.shape[1]}", len(run))
    return block
