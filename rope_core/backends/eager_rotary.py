"""Rotation in plain PyTorch: the general operator, and fast ones for the two usual layouts."""

from collections.abc import Callable

import torch
from torch import Tensor

from rope_core import compiled, torch_rotation
from rope_core.backends.work import RotaryWork
from rope_core.config import RopeConfig
from rope_core.layouts import deinterleave, expand_to_channels, interleave, rotate_half, swap_pairs
from rope_core.torch_rotation import CHUNK_ELEMENTS, split_tokens, tokens_at_a_time


def rotary_operator(work: RotaryWork) -> Callable[[RotaryWork], None]:
    """Return the fastest operator of this module for `work`."""
    needs_general = work.scale is not None or work.cos.ndim != 2 or work.rope.is_general
    return rotate_general if needs_general else rotate_pairs


def rotate_pairs(work: RotaryWork) -> None:
    """Rotate one of the two usual layouts, rounded once: compiled, or by operators of torch."""
    rope, inverse = work.rope, work.inverse
    cos, sin = work.cos.contiguous(), work.sin.contiguous()
    start = rope.head_dim - rope.rotary_dim if rope.trailing else 0
    interleaved = rope.layout == "interleaved"
    extension = compiled.extension()
    for x, out in zip(work.xs, work.outs, strict=True):
        if extension is not None and compiled.can_rotate(extension, out, x, cos):
            args = compiled.rotate_args(out, start, x, cos, sin, interleaved, inverse)
            extension.rotate(*args)
        else:
            rotated = _rotated_channels(out, x, rope)
            torch_rotation.rotate(*rotated, cos, sin, interleaved, inverse)


def rotate_general(work: RotaryWork) -> None:
    """Rotate any layout. Each step is rounded as the config says, as transformers does."""
    rope, layout, inverse = work.rope, work.rope.layout, work.inverse
    # the inverse of nearly singular pairs enlarges each rounding error
    turns_back = inverse != work.transposed
    exact = inverse and not rope.is_rotation
    dtypes = {"activation": work.xs[0].dtype, "float64": torch.float64}
    dtype = torch.float64 if exact else dtypes.get(rope.rounding, torch.float32)
    round_tables = rope.rounding in ("tables", "activation") and not exact
    tables = [t for t in (work.cos, work.sin, work.scale) if t is not None]
    width = rope.rotary_dim // rope.blocks
    for x, out in zip(work.xs, work.outs, strict=True):
        rotated, x = _rotated_channels(out, x, rope)
        step = tokens_at_a_time(x, CHUNK_ELEMENTS)
        for x_part, out_part, *parts in split_tokens(step, x, rotated, *tables):
            if round_tables:
                parts[:2] = (t.to(x.dtype) for t in parts[:2])
            c, s, *scales = (_to_channels(t.to(dtype), work, width) for t in parts)
            if inverse:
                c, s = _inverted(c, s, work)
            if work.transposed:
                s = -swap_pairs(s, layout)
            y = x_part.to(dtype)
            y = y.view(*y.shape[:-1], rope.blocks, width)  # [T, H, blocks, width]
            if layout == "interleaved_to_half" and not turns_back:
                y = deinterleave(y)
            cos_part, sin_part = y * c, rotate_half(y, layout) * s
            for scale in scales:
                cos_part, sin_part = cos_part * scale, sin_part * scale
            y = cos_part + sin_part
            if layout == "interleaved_to_half" and turns_back:
                y = interleave(y)
            out_part.copy_(y.flatten(-2))


def _to_channels(table: Tensor, work: RotaryWork, width: int) -> Tensor:
    """Return a table `[T, n]` or `[T, H, n]` as `[T, 1 or H, blocks, width]`."""
    table = table if table.ndim == 3 else table[:, None]
    blocks = work.rope.blocks
    table = table.view(*table.shape[:-1], blocks, table.shape[-1] // blocks)
    return expand_to_channels(table, work.rope.layout, width)


def _inverted(c: Tensor, s: Tensor, work: RotaryWork) -> tuple[Tensor, Tensor]:
    """Return the tables of the inverse of each pair's matrix [[c, -s], [s', c']]."""
    if work.rope.is_rotation:  # cos and sin are divided by the square of the scaling already
        return c, -s
    layout = work.rope.layout
    other_c, other_s = swap_pairs(c, layout), swap_pairs(s, layout)
    determinant = c * other_c + s * other_s
    return other_c / determinant, -s / determinant


def _rotated_channels(out: Tensor, x: Tensor, rope: RopeConfig) -> tuple[Tensor, Tensor]:
    """Copy the channels that pass through; return the others of out and x, `[T, H, D]`."""
    if rope.rotary_dim == rope.head_dim:
        return out, x
    start = rope.head_dim - rope.rotary_dim if rope.trailing else 0
    end = start + rope.rotary_dim
    for kept in (slice(start), slice(end, None)):
        out[..., kept].copy_(x[..., kept])
    return out[..., start:end], x[..., start:end]
