"""Positions in sequences: after a cache, with padding, in packed documents."""

import torch
from torch import Tensor

from rope_core.checks import check_cu_seqlens
from rope_core.errors import ConfigError, ShapeError
from rope_core.positions import validate
from rope_core.positions.tokens import read_mask
from rope_core.ragged import sequence_positions


def offset_positions(*, length: int, start: int = 0, starts: Tensor | None = None) -> Tensor:
    """Return start, start + 1, ...: the positions of new tokens after a cache.

    Models: KV cache.

    Args:
        length: number of new tokens.
        start: number of tokens before them, evicted ones included.
        starts: int64 `[B]`: this number for each row of a batch, without padding; `start` is 0.

    Returns:
        int64 `[length]`; `[B, length]` with `starts`.

    >>> offset_positions(length=3, start=5).tolist()
    [5, 6, 7]
    >>> offset_positions(length=2, starts=torch.tensor([7, 5])).tolist()
    [[7, 8], [5, 6]]
    """
    validate.integer("length", length, 1, validate.MAX_POSITIONS)
    validate.integer("start", start, -validate.MAX_INT)
    if starts is None:
        return torch.arange(length) + start
    if start:
        raise ConfigError("start", "absent if starts is given", start)
    rows = validate.int_tensor("starts", starts, "[B]", 1)
    validate.count("length", len(rows) * length)
    return torch.arange(length) + rows[:, None]


def interpolated_positions(*, length: int, start: float = 0.0, factor: float = 1.0) -> Tensor:
    """Return (i + start) / factor: linear position interpolation (rotary-embedding-torch).

    Models: position interpolation, rotary-embedding-torch.

    Args:
        length: number of tokens.
        start: a number to add to each index.
        factor: divides positions.

    Returns:
        float32 `[length]`.
    """
    validate.integer("length", length, 1, validate.MAX_POSITIONS)
    validate.number("start", start)
    return (torch.arange(length).float() + start) / validate.positive("factor", factor)


def mask_positions(*, attention_mask: Tensor, padding: int = 0) -> Tensor:
    """Return positions that count tokens only; padding may be on the left or on the right.

    Models: left padding.

    Args:
        attention_mask: int64 `[S]` or `[B, S]`: 1 for tokens, 0 for padding.
        padding: position of padding; 1 in generate() of transformers, 0 in M-RoPE of 5.23.

    Returns:
        int64 of the shape of `attention_mask`.

    >>> mask_positions(attention_mask=torch.tensor([0, 0, 1, 1])).tolist()
    [0, 0, 0, 1]
    """
    mask = read_mask(attention_mask)
    validate.integer("padding", padding, -validate.MAX_INT)
    return (mask.cumsum(-1) - 1).masked_fill(~mask, padding)


def packed_positions(*, cu_seqlens: Tensor) -> Tensor:
    """Return positions that start from 0 in each packed document.

    Models: packed documents.

    Args:
        cu_seqlens: int64 or int32 `[documents + 1]`: the start of each, from 0 to all tokens.

    Returns:
        int64 `[tokens]`.

    >>> packed_positions(cu_seqlens=torch.tensor([0, 2, 5])).tolist()
    [0, 1, 0, 1, 2]
    """
    starts = validate.int_tensor("cu_seqlens", cu_seqlens, "[documents + 1]", 1)
    tokens = validate.count("cu_seqlens", max(int(starts[-1]), 0))
    check_cu_seqlens("cu_seqlens", starts, torch.empty(tokens, 0, 0))
    return sequence_positions(tokens, starts, starts.device)


def document_boundaries(*, positions: Tensor) -> Tensor:
    """Return where documents start in packed positions: where the step is not 1.

    transformers 5 reads `position_ids` without a mask in this way: a gap starts a document also.

    Models: packed documents.

    Args:
        positions: int64 `[S]`.

    Returns:
        cu_seqlens: int64 `[documents + 1]`.

    >>> document_boundaries(positions=torch.tensor([0, 1, 0, 1, 2])).tolist()
    [0, 2, 5]
    """
    points = validate.int_tensor("positions", positions, "[S]", 1)
    starts = (points.diff() != 1).nonzero().flatten() + 1
    return torch.cat([torch.tensor([0]), starts, torch.tensor([len(points)])])


def decode_positions(
    *,
    rope_delta: Tensor,
    length: int | None = None,
    lengths: Tensor | None = None,
    attention_mask: Tensor | None = None,
    new_tokens: int = 1,
    axes: int = 3,
) -> Tensor:
    """Return positions of tokens after a prompt with M-RoPE: row length + delta, and the next ones.

    The length of a row is the number of its tokens without padding. Of a batch it is known from
    `lengths` or `attention_mask` only, because its rows can have different padding.

    Models: qwen2_vl, paddleocr_vl, qwen2_5_vl, ernie4_5_vl_moe, qwen3_vl, qwen3_vl_moe, glm4v,
    glm4v_moe, glm46v, glm_ocr, qwen3_5, qwen3_5_moe, qwen4_exp, cohere_compass, cosmos3_edge,
    cosmos3_omni, qwen2_5_omni, qwen3_omni_moe, hunyuan_vl.

    Args:
        rope_delta: int64 or float32 `[B]`, from `mrope_index`.
        length: number of tokens before the new ones: of the only row, without padding; with
            `attention_mask`, of all rows with padding, as the length of a KV cache.
        lengths: int64 `[B]`: number of tokens of each row before the new ones, without padding.
            The padded length for each row if `rope_delta` counts padding (compat 4.57).
        attention_mask: `[B, S]`: 1 for tokens, 0 for padding. Tokens from S to `length` are no
            padding; `length` is S if absent.
        new_tokens: number of new tokens of each row.
        axes: number of axes of the prompt's positions.

    Returns:
        `[axes, B, new_tokens]` of the dtype of `rope_delta`, equal on all axes.

    >>> mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    >>> decode_positions(rope_delta=torch.tensor([0, -1]), attention_mask=mask, axes=1).tolist()
    [[[2], [2]]]
    """
    is_float = isinstance(rope_delta, Tensor) and rope_delta.is_floating_point()
    delta = (validate.float_tensor if is_float else validate.int_tensor)(
        "rope_delta", rope_delta, "[B]", 1
    )
    validate.integer("new_tokens", new_tokens, 1, validate.MAX_POSITIONS)
    validate.integer("axes", axes, 1, 16)
    validate.count("new_tokens", axes * len(delta) * new_tokens)
    before = _row_lengths(len(delta), length, lengths, attention_mask)
    next_position = delta + before
    if bool((next_position < 0).any()):
        row = int((next_position < 0).nonzero()[0])
        expected = f"-{before[row]} or more, because {before[row]} tokens are before"
        raise ShapeError("rope_delta", expected, f"{delta[row]:g}")
    points = torch.arange(new_tokens) + next_position[:, None]
    return points.expand(axes, -1, -1)


def _row_lengths(
    num_rows: int, length: int | None, lengths: Tensor | None, attention_mask: Tensor | None
) -> Tensor:
    """Return the number of tokens of each row without padding: int64 `[B]`."""
    if length is not None:
        validate.integer("length", length)
    if lengths is not None:
        if length is not None or attention_mask is not None:
            other = "attention_mask" if length is None else "length"
            raise ShapeError("lengths", f"absent if {other} is given", "both")
        rows = validate.int_tensor("lengths", lengths, "[B]", 1)
        if bool((rows < 0).any()):
            raise ShapeError("lengths", "of numbers from 0", int(rows.min()))
    elif attention_mask is not None:
        mask = read_mask(attention_mask)
        mask = mask if mask.ndim == 2 else mask[None]
        num_columns = mask.shape[-1]
        if length is not None and length < num_columns:
            expected = f"{num_columns} or more, the columns of attention_mask"
            raise ConfigError("length", expected, length)
        rows = mask.sum(-1) + (0 if length is None else length - num_columns)
    elif length is None:
        raise ConfigError("length", "given, or lengths or attention_mask", None)
    elif num_rows > 1:
        expected = (
            f"given with attention_mask, or lengths in its place: the {num_rows} rows of rope_delta"
            " can have different padding"
        )
        raise ConfigError("length", expected, f"{length} alone")
    else:
        rows = torch.tensor([length])
    if len(rows) != num_rows:
        name = "attention_mask" if lengths is None else "lengths"
        raise ShapeError(name, f"of {num_rows} rows, as rope_delta", len(rows))
    return rows
