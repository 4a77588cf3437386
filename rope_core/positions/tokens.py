"""The type of each token of a prompt (text, image, video, audio), and its padding."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rope_core.checks import check_cu_seqlens, shape_of
from rope_core.errors import ConfigError, ShapeError
from rope_core.positions import validate
from rope_core.ragged import sequence_starts

TEXT, IMAGE, VIDEO, AUDIO = range(4)


def token_types(
    *,
    input_ids: Tensor,
    cu_seqlens: Tensor | None = None,
    image_token_id: int = 151655,
    video_token_id: int = 151656,
    audio_token_id: int | None = None,
    video_start_token_id: int | None = None,
    video_end_token_id: int | None = None,
) -> Tensor:
    """Return each token's type from its id: 0 text, 1 image, 2 video, 3 audio.

    Models: Qwen-VL, Qwen-Omni, GLM-4V.

    Args:
        input_ids: int64 `[S]` or `[B, S]`.
        cu_seqlens: int64 or int32 `[documents + 1]`: where packed documents start in `[S]`. A video
            that a document leaves open does not go on in the next one.
        image_token_id: id of an image token; the default is Qwen2-VL's.
        video_token_id: id of a video token.
        audio_token_id: id of an audio token (Qwen-Omni); None for models without audio.
        video_start_token_id: GLM-4V: image tokens between this id and `video_end_token_id` are
            video tokens.
        video_end_token_id: see `video_start_token_id`.

    Returns:
        int64 of the shape of `input_ids`.

    >>> token_types(input_ids=torch.tensor([9, 151655, 151656])).tolist()
    [0, 1, 2]
    """
    ids = validate.int_tensor("input_ids", input_ids, "[S] or [B, S]", 1, 2)
    first = torch.zeros_like(ids)  # the index of the first token of each token's document
    if cu_seqlens is not None:
        first = sequence_starts(
            torch.arange(ids.shape[-1]), read_cu_seqlens(cu_seqlens, "input_ids", ids)
        )
    types = torch.zeros_like(ids)
    types[ids == validate.integer("image_token_id", image_token_id)] = IMAGE
    types[ids == validate.integer("video_token_id", video_token_id)] = VIDEO
    if audio_token_id is not None:
        types[ids == validate.integer("audio_token_id", audio_token_id)] = AUDIO
    if video_start_token_id is not None or video_end_token_id is not None:
        inside = _between(ids, first, video_start_token_id, video_end_token_id)
        types[inside & (types == IMAGE)] = VIDEO
    return types


def _between(ids: Tensor, first: Tensor, start: int | None, end: int | None) -> Tensor:
    """Return bool of the shape of `ids`: whether `start`, and not `end`, was the last of both.

    Only tokens from the index `first` on count, `[S]` or `[B, S]`.
    """
    if start is None or end is None:
        missing = "video_start_token_id" if start is None else "video_end_token_id"
        raise ConfigError(missing, "given, because the other id is", None)
    validate.integer("video_start_token_id", start)
    validate.integer("video_end_token_id", end)
    steps = torch.arange(ids.shape[-1]).expand_as(ids)
    last = torch.where((ids == start) | (ids == end), steps, -1).cummax(-1).values
    return (last >= first) & (ids.gather(-1, last.clamp(min=0)) == start)


@dataclass(frozen=True)
class Prompt:
    """Sequences of tokens: the rows of a batch without their padding, or packed documents."""

    types: Tensor
    """int64 `[N]`: the type of each token that is not padding, one sequence after the other."""
    mask: Tensor
    """bool `[B, S]` or `[S]`: true for the N tokens, false for padding."""
    lengths: Tensor
    """int64 `[sequences]`: tokens of each sequence, without padding."""
    is_packed: bool
    """Whether the sequences are documents of one row."""

    @property
    def starts(self) -> Tensor:
        """The index of the first token of each sequence: int64 `[sequences]`."""
        return self.lengths.cumsum(0) - self.lengths

    @property
    def sequence(self) -> Tensor:
        """The sequence of each token: int64 `[N]`."""
        return torch.arange(len(self.lengths)).repeat_interleave(self.lengths)

    @property
    def padded_length(self) -> int | Tensor:
        """Tokens of each sequence with padding: one number for all rows, or `[documents]`."""
        return self.lengths if self.is_packed else self.mask.shape[-1]


def read_prompt(
    types: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None, highest: int
) -> Prompt:
    """Return the sequences of a prompt.

    Args:
        types: int64 `[S]` or `[B, S]`.
        mask: the attention mask, 1 for tokens and 0 for padding; None if nothing is padding.
        cu_seqlens: `[documents + 1]`: where packed documents start in `[S]`; None without a pack.
        highest: the largest type that the model has.
    """
    types = validate.int_tensor("token_types", types, "[S] or [B, S]", 1, 2)
    validate.count("token_types", 3 * types.numel())
    if not bool(((types >= 0) & (types <= highest)).all()):
        raise ShapeError("token_types", f"of numbers from 0 to {highest}", "others")
    if cu_seqlens is not None:
        if mask is not None:
            raise ShapeError(
                "attention_mask", "absent if cu_seqlens is given: a pack has no padding", "both"
            )
        ends = read_cu_seqlens(cu_seqlens, "token_types", types)
        return Prompt(types, torch.ones_like(types, dtype=torch.bool), ends.diff(), True)
    kept = torch.ones_like(types, dtype=torch.bool) if mask is None else read_mask(mask)
    if kept.shape != types.shape:
        raise ShapeError("attention_mask", shape_of(types), shape_of(kept))
    return Prompt(types[kept], kept, kept.sum(-1).reshape(-1), False)


def read_cu_seqlens(cu_seqlens: Tensor, name: str, tokens: Tensor) -> Tensor:
    """Return where the documents of a pack start, int64 `[documents + 1]`.

    Args:
        cu_seqlens: not checked yet.
        name: of `tokens`.
        tokens: int64 `[S]`, one row.
    """
    starts = validate.int_tensor("cu_seqlens", cu_seqlens, "[documents + 1]", 1)
    if tokens.ndim != 1:
        raise ShapeError(name, "[S], one row, because cu_seqlens is given", shape_of(tokens))
    check_cu_seqlens("cu_seqlens", starts, tokens[:, None, None])
    return starts


def read_mask(mask: Tensor) -> Tensor:
    """Return which tokens are not padding: bool `[S]` or `[B, S]`, true for some of each row."""
    if isinstance(mask, Tensor) and mask.dtype == torch.bool:
        mask = mask.long()
    mask = validate.int_tensor("attention_mask", mask, "[S] or [B, S]", 1, 2)
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ShapeError("attention_mask", "of 0 and 1", "other numbers")
    if not bool(mask.any(-1).all()):
        raise ShapeError("attention_mask", "1 for some token of each row", "a row of padding")
    return mask == 1
