"""M-RoPE of Qwen-Omni: time in seconds for video and sound, and both interleaved."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rope_core.checks import check_choice
from rope_core.errors import ConfigError, ShapeError
from rope_core.positions import validate
from rope_core.positions.grids import MAX_MERGE, grid_points, optional_grids
from rope_core.positions.mrope import MropePositions, read_seconds
from rope_core.positions.tokens import AUDIO, IMAGE, TEXT, VIDEO, read_prompt

POSITIONS_PER_SECOND = {"qwen2_5_omni": 25, "qwen3_omni_moe": 13}
"""The families of `omni_mrope_index`, and `position_id_per_seconds` of their published files."""

MAX_BLOCKS = 2**14
"""Largest number of images, videos and sounds of one call."""


def omni_mrope_index(
    *,
    token_types: Tensor,
    image_grid_thw: Tensor | None = None,
    video_grid_thw: Tensor | None = None,
    second_per_grid_ts: Tensor | None = None,
    attention_mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    family: str = "qwen2_5_omni",
    spatial_merge_size: int = 2,
    position_id_per_seconds: int | None = None,
    seconds_per_chunk: float = 2.0,
) -> MropePositions:
    """Return M-RoPE positions of text, images, videos and sound (Qwen2.5-Omni, Qwen3-Omni).

    Sound counts as text does. The distance of frames is their distance in seconds, and tokens after
    a block start after its largest position. A block of video and audio tokens is a video with its
    sound: both start together, and alternate in chunks of `seconds_per_chunk` (Qwen2.5) or token by
    token (Qwen3). In Qwen2.5 the two start marks of such a block share a position, as do its two
    end marks. The rules are those of `get_rope_index` in transformers.

    Models: qwen2_5_omni, qwen3_omni_moe.

    Args:
        token_types: int64 `[S]` or `[B, S]`: 0 text, 1 image, 2 video, 3 audio. Each block of
            another type has a mark of type 0 before and after it, a video with sound has two.
        image_grid_thw: int64 `[images, 3]`: frames, rows, columns, in patches before merging.
        video_grid_thw: int64 `[videos, 3]`.
        second_per_grid_ts: float `[videos]`, seconds from one frame of a grid to the next.
        attention_mask: 1 for tokens, 0 for padding, of the shape of `token_types`. Padding is at
            position 1; in Qwen3 at 0 if there are grids.
        cu_seqlens: int64 or int32 `[documents + 1]`: where packed documents start in `[S]`, from 0
            to S. Positions start from 0 in each document.
        family: "qwen2_5_omni", whole positions, or "qwen3_omni_moe", fractional ones.
        spatial_merge_size: number of patches that are merged along a row and along a column.
        position_id_per_seconds: positions per second; the family's if None (25, 13).
        seconds_per_chunk: seconds of a chunk of video with sound (Qwen2.5).

    Returns:
        positions `[3, B, S]` (`[3, S]`) and rope_delta `[B]` (`[]`; of a pack `[documents]`),
        int64; float32 in Qwen3.
    """
    check_choice("family", family, POSITIONS_PER_SECOND)
    merge = validate.integer("spatial_merge_size", spatial_merge_size, 1, MAX_MERGE)
    rate = position_id_per_seconds
    rate = POSITIONS_PER_SECOND[family] if rate is None else rate
    validate.integer("position_id_per_seconds", rate, 1, 2**12)
    chunk = int(rate * validate.number("seconds_per_chunk", seconds_per_chunk, 0, 2**12))
    if not chunk:
        raise ConfigError("seconds_per_chunk", "at least one position long", seconds_per_chunk)
    prompt = read_prompt(token_types, attention_mask, cu_seqlens, AUDIO)
    images = optional_grids("image_grid_thw", image_grid_thw, merge)
    videos = optional_grids("video_grid_thw", video_grid_thw, merge)
    seconds = torch.zeros(0)
    if second_per_grid_ts is not None:
        seconds = read_seconds(second_per_grid_ts, videos).float()
    elif len(videos):
        raise ConfigError("second_per_grid_ts", "given with videos", None)

    is_whole = family == "qwen2_5_omni"
    walk = _Walk(images.tolist(), videos.tolist(), list(seconds), rate, chunk, is_whole)
    sequences = torch.split(prompt.types, prompt.lengths.tolist())
    positions = torch.cat([walk.sequence(types) for types in sequences], 1)
    if walk.images or walk.videos:
        left = f"{len(walk.images)} image and {len(walk.videos)} video grids without tokens"
        raise ShapeError("token_types", "of tokens for every grid", left)
    text_alone = image_grid_thw is None and video_grid_thw is None
    return MropePositions.of(
        positions.to(torch.int64 if is_whole else torch.float32),
        prompt,
        padding=1 if is_whole or text_alone else 0,
        counts_padding=text_alone,
    )


@dataclass
class _Walk:
    """Walks through sequences of token types, and takes the grids of their blocks one by one."""

    images: list[list[int]]
    """Frames, rows and columns of each image, in merged patches."""
    videos: list[list[int]]
    """The same of each video."""
    seconds: list[Tensor]
    """Seconds from one frame to the next of each video."""
    rate: int
    """Positions per second."""
    chunk: int
    """Positions of a chunk of a video with sound."""
    is_whole: bool
    """Whether positions are whole (Qwen2.5) or fractional (Qwen3)."""
    num_blocks: int = 0

    def sequence(self, types: Tensor) -> Tensor:
        """Return the positions `[3, S]` of a sequence of types `[S]` without padding."""
        blocks, parts = _blocks(types), []
        self.num_blocks += len(blocks)
        if self.num_blocks > MAX_BLOCKS:
            raise ShapeError("token_types", f"of at most {MAX_BLOCKS} blocks", "more")
        position, done, marks = torch.tensor(0 if self.is_whole else 0.0), 0, 0
        for start, end in blocks:
            block = types[start:end]
            end_marks, marks = marks, 1 if bool((block == block[0]).all()) else 2
            num_text = start - done - end_marks - marks
            if num_text < 0:
                expected = "of text before and after each block of another type"
                raise ShapeError("token_types", expected, f"{start - done} tokens of it")
            before, position = self._marks(position, end_marks)
            text, position = _count(position, num_text), position + num_text
            after, position = self._marks(position, marks)
            inside, last = self._block(block, position)
            parts += [before, text, after, inside]
            position, done = last.max() + 1, end
        if len(types) - done < marks:
            raise ShapeError("token_types", "of text after each block of another type", "none")
        before, position = self._marks(position, marks)
        return torch.cat([*parts, before, _count(position, len(types) - done - marks)], 1)

    def _marks(self, position: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return positions `[3, count]` of the marks beside a block, and the next position."""
        marks = position.expand(3, count) if self.is_whole else _count(position, count)
        return marks, marks.max() + 1 if count else position

    def _block(self, types: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Return positions `[3, N]` of a block of types `[N]`, and those of its last part."""
        kinds = sorted(set(types.tolist()))
        sound = _count(start, int((types == AUDIO).sum()))
        if kinds == [AUDIO]:
            return sound, sound
        if kinds == [IMAGE]:
            image = self._vision(self.images, "image", torch.tensor(1), start)
            return _of_length(image, types), image
        seconds = self.seconds.pop(0) if self.seconds else torch.tensor(1.0)
        video = self._vision(self.videos, "video", seconds, start)
        if kinds == [VIDEO]:
            return _of_length(video, types), video
        order, last = self._interleave(video[0], sound[0], start)
        expected = torch.where(order < video.shape[1], VIDEO, AUDIO)
        if kinds != [VIDEO, AUDIO] or not torch.equal(expected, types):
            text = "of video and audio interleaved by time"
            raise ShapeError("token_types", text, "another block")
        both = torch.cat([video, sound], 1)[:, order]
        return both, both[:, last:]

    def _vision(self, grids: list[list[int]], name: str, seconds: Tensor, start: Tensor) -> Tensor:
        """Return positions `[3, N]` of the next grid."""
        if not grids:
            raise ShapeError("token_types", f"of as many {name} blocks as {name}_grid_thw", "more")
        frames, rows, columns = grids.pop(0)
        time = torch.arange(frames) * seconds * self.rate
        time = time.long() if self.is_whole else time.float()
        sides = [torch.arange(side).to(time.dtype) for side in (rows, columns)]
        return grid_points([time, *sides]) + start

    def _interleave(self, video: Tensor, sound: Tensor, start: Tensor) -> tuple[Tensor, int]:
        """Return the order of video and sound by their times, and where its last part starts."""
        if not self.is_whole:
            order = torch.cat([video, sound]).argsort(stable=True)
            is_video = order < len(video)
            return order, int((is_video != is_video[-1]).nonzero()[-1]) + 1
        chunks = [_chunks(time - start, self.chunk) for time in (video, sound)]
        parts: list[Tensor] = []
        for i in range(max(len(edges) for edges in chunks) - 1):
            for offset, edges in zip((0, len(video)), chunks, strict=True):
                if i + 1 < len(edges):
                    parts.append(torch.arange(edges[i], edges[i + 1]) + offset)
        return torch.cat(parts), sum(len(part) for part in parts[:-1])


def _count(start: Tensor, length: int) -> Tensor:
    """Return start, start + 1, ... on three axes: `[3, length]`."""
    return (torch.arange(length) + start).expand(3, -1)


def _chunks(time: Tensor, chunk: int) -> list[int]:
    """Return the edges of chunks. A token ends at most one chunk, if its time is in a later one."""
    first = torch.searchsorted(time, torch.arange(1, len(time) + 1) * chunk)
    order = torch.arange(len(time))
    edges = (first - order).cummax(0).values + order
    return [0, *edges[edges < len(time)].tolist(), len(time)]


def _blocks(types: Tensor) -> list[tuple[int, int]]:
    """Return the start and the end of each run of tokens that are not text."""
    edges = torch.nn.functional.pad((types != TEXT).long(), (1, 1)).diff()
    starts, ends = ((edges == step).nonzero().flatten().tolist() for step in (1, -1))
    return list(zip(starts, ends, strict=True))


def _of_length(positions: Tensor, types: Tensor) -> Tensor:
    if positions.shape[1] != len(types):
        expected = f"of blocks as long as their grids, {positions.shape[1]}"
        raise ShapeError("token_types", expected, len(types))
    return positions
