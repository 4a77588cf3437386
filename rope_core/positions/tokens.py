"""Which token is text, image, video or audio, and which of a batch are padding."""

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

    Args:
        input_ids: int64 `[S]` or `[B, S]`.
        image_token_id: id that stands for an image's patch; Qwen2-VL's by default.
        video_token_id: id that stands for a video's.
        audio_token_id: id that stands for a piece of sound (Qwen-Omni); None where there is none.
        video_start_token_id: with `video_end_token_id`, GLM-4V's rule: image tokens between the
            two are a video's.
        video_end_token_id: see `video_start_token_id`.

    Returns:
        int64, of the shape of `input_ids`.

    >>> token_types(input_ids=torch.tensor([9, 151655, 151656])).tolist()
    [0, 1, 2]
    """
    ids = validate.integers("input_ids", input_ids, "[S] or [B, S]", (1, 2))
    types = torch.zeros_like(ids)
    validate.whole("image_token_id", image_token_id)
    validate.whole("video_token_id", video_token_id)
    types[ids == image_token_id] = IMAGE
    types[ids == video_token_id] = VIDEO
    if audio_token_id is not None:
        types[ids == validate.whole("audio_token_id", audio_token_id)] = AUDIO
    if video_start_token_id is not None or video_end_token_id is not None:
        inside = _between(ids, video_start_token_id, video_end_token_id)
        types[inside & (types == IMAGE)] = VIDEO
    return types


def _between(ids: Tensor, start: int | None, end: int | None) -> Tensor:
    """Return which tokens have `start` as the last mark up to them."""
    if start is None or end is None:
        missing = "video_start_token_id" if start is None else "video_end_token_id"
        raise ConfigError(missing, "given, as the other mark is", None)
    validate.whole("video_start_token_id", start)
    validate.whole("video_end_token_id", end)
    marked = (ids == start) | (ids == end)
    steps = torch.arange(ids.shape[-1]).expand_as(ids)
    last = torch.where(marked, steps, -1).cummax(-1).values
    return (last >= 0) & (ids.gather(-1, last.clamp(min=0)) == start)


def check_types(types: Tensor, highest: int) -> Tensor:
    """Return token types as int64 `[S]` or `[B, S]`."""
    types = validate.integers("token_types", types, "[S] or [B, S]", (1, 2))
    validate.few("token_types", 3 * types.numel())
    if not bool(((types >= 0) & (types <= highest)).all()):
        raise ShapeError("token_types", f"of numbers from 0 to {highest}", "others")
    return types


def kept_tokens(mask: Tensor | None, tokens: Tensor) -> Tensor:
    """Return which of `tokens` are no padding: bool, of their shape; all where `mask` is None."""
    if mask is None:
        return torch.ones_like(tokens, dtype=torch.bool)
    kept = check_mask(mask)
    if kept.shape != tokens.shape:
        raise ShapeError("attention_mask", shape_of(tokens), shape_of(kept))
    return kept


def check_mask(mask: Tensor) -> Tensor:
    """Return which tokens are no padding: bool `[S]` or `[B, S]`; each row keeps some."""
    if isinstance(mask, Tensor) and mask.dtype == torch.bool:
        mask = mask.long()
    mask = validate.integers("attention_mask", mask, "[S] or [B, S]", (1, 2))
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ShapeError("attention_mask", "of 0 and 1", "other numbers")
    if not bool(mask.any(-1).all()):
        raise ShapeError("attention_mask", "1 for some token of each row", "a row of padding")
    return mask == 1
