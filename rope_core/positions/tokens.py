"""The type of each token of a prompt (text, image, video, audio), and its padding."""

import torch
from torch import Tensor

from rope_core.checks import shape_of
from rope_core.errors import ConfigError, ShapeError
from rope_core.positions import validate

TEXT, IMAGE, VIDEO, AUDIO = range(4)


def token_types(
    *,
    input_ids: Tensor,
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
    types = torch.zeros_like(ids)
    types[ids == validate.integer("image_token_id", image_token_id)] = IMAGE
    types[ids == validate.integer("video_token_id", video_token_id)] = VIDEO
    if audio_token_id is not None:
        types[ids == validate.integer("audio_token_id", audio_token_id)] = AUDIO
    if video_start_token_id is not None or video_end_token_id is not None:
        inside = _between(ids, video_start_token_id, video_end_token_id)
        types[inside & (types == IMAGE)] = VIDEO
    return types


def _between(ids: Tensor, start: int | None, end: int | None) -> Tensor:
    """Return bool of the shape of `ids`: whether `start`, and not `end`, was the last of both."""
    if start is None or end is None:
        missing = "video_start_token_id" if start is None else "video_end_token_id"
        raise ConfigError(missing, "given, because the other id is", None)
    validate.integer("video_start_token_id", start)
    validate.integer("video_end_token_id", end)
    steps = torch.arange(ids.shape[-1]).expand_as(ids)
    last = torch.where((ids == start) | (ids == end), steps, -1).cummax(-1).values
    return (last >= 0) & (ids.gather(-1, last.clamp(min=0)) == start)


def read_tokens(types: Tensor, mask: Tensor | None, highest: int) -> tuple[Tensor, Tensor]:
    """Return token types as int64, and which tokens are not padding as bool, both of one shape.

    Args:
        types: int64 `[S]` or `[B, S]`.
        mask: the attention mask, 1 for tokens and 0 for padding; None if nothing is padding.
        highest: the largest type that the model has.
    """
    types = validate.int_tensor("token_types", types, "[S] or [B, S]", 1, 2)
    validate.count("token_types", 3 * types.numel())
    if not bool(((types >= 0) & (types <= highest)).all()):
        raise ShapeError("token_types", f"of numbers from 0 to {highest}", "others")
    if mask is None:
        return types, torch.ones_like(types, dtype=torch.bool)
    kept = read_mask(mask)
    if kept.shape != types.shape:
        raise ShapeError("attention_mask", shape_of(types), shape_of(kept))
    return types, kept


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
