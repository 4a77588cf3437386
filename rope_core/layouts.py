"""Layouts: which channels form a pair, and how to convert between them.

All layouts are one operator, x'[c] = x[c] * C[c] + x[other channel of the pair] * S[c], with the
sign of the other channel in `rotate_half`: (x, y) -> (-y, x).
"""

import torch
from torch import Tensor

from rope_core.checks import check_choice
from rope_core.errors import ConfigError, ShapeError

SPLIT_HALF_LAYOUTS = ("half", "interleaved_to_half")
"""Layouts that rotate pairs (i, i + d/2), the second after reordering the channels."""

TILED_LAYOUTS = ("half", "interleaved_to_half", "interleaved_tiled")
"""Layouts in which channel c has angle c mod n."""


def expand_to_channels(table: Tensor, layout: str, width: int) -> Tensor:
    """Return a table of angles `[..., n]` as a table of channels `[..., width]`."""
    if table.shape[-1] == width:  # each channel has its own angle (XD-RoPE)
        return table
    if layout in TILED_LAYOUTS:
        return torch.cat((table, table), -1)
    return table.repeat_interleave(2, -1)


def rotate_half(x: Tensor, layout: str) -> Tensor:
    """Return `x` `[..., d]` with each pair (x, y) replaced by (-y, x)."""
    if layout in SPLIT_HALF_LAYOUTS:
        first, second = x.chunk(2, -1)
        return torch.cat((-second, first), -1)
    return torch.stack((-x[..., 1::2], x[..., 0::2]), -1).flatten(-2)


def swap_pairs(table: Tensor, layout: str) -> Tensor:
    """Return a table of channels `[..., d]` with the two members of each pair exchanged."""
    if layout in SPLIT_HALF_LAYOUTS:
        return table.roll(table.shape[-1] // 2, -1)
    return table.view(*table.shape[:-1], -1, 2).flip(-1).flatten(-2)


def deinterleave(x: Tensor) -> Tensor:
    """Return P x, `[..., d]`: the first members of neighbouring pairs, then the second ones."""
    return torch.cat((x[..., 0::2], x[..., 1::2]), -1)


def interleave(x: Tensor) -> Tensor:
    """Return P^-1 x, `[..., d]`: the inverse of `deinterleave`."""
    first, second = x.chunk(2, -1)
    return torch.stack((first, second), -1).flatten(-2)


def convert(
    x: Tensor, source: str, target: str, *, rotary_dim: int | None = None, trailing: bool = False
) -> Tensor:
    """Return vectors of heads `[..., head_dim]`, reordered from one layout to the other.

    rope_half(P x) = P rope_interleaved(x): scores do not change if q and k are both converted.
    Channels outside the rotated slice keep their place.

    Args:
        x: `[..., head_dim]`, any dtype.
        source: "half" or "interleaved", the layout of `x`.
        target: the layout to return.
        rotary_dim: how many channels rotate; all of them if None.
        trailing: whether the last channels rotate, not the first.

    Raises:
        ConfigError: a layout is neither of the two, or rotary_dim odd or wider than a head.
        ShapeError: x has no dimension.
    """
    for name, layout in (("source", source), ("target", target)):
        check_choice(name, layout, ("half", "interleaved"))
    if not x.ndim:
        raise ShapeError("x", "[..., head_dim]", "one number")
    width = x.shape[-1]
    rotary_dim = width if rotary_dim is None else rotary_dim
    if rotary_dim % 2 or not 0 < rotary_dim <= width:
        raise ConfigError("rotary_dim", f"even and in [2, {width}]", rotary_dim)
    if source == target:
        return x.clone()
    start = width - rotary_dim if trailing else 0
    reorder = deinterleave if target == "half" else interleave
    rotated = reorder(x[..., start : start + rotary_dim])
    return torch.cat((x[..., :start], rotated, x[..., start + rotary_dim :]), -1)


def convert_weight(
    weight: Tensor,
    num_heads: int,
    source: str,
    target: str,
    *,
    rotary_dim: int | None = None,
    trailing: bool = False,
) -> Tensor:
    """Return the weight of a q or k projection, its rows reordered head by head.

    Args:
        weight: `[num_heads * head_dim, ...]`: a weight, a bias, or the weight of a norm of all
            heads.
        num_heads: heads of this projection: `num_key_value_heads` for k under GQA.
        source: as in `convert`.
        target: as in `convert`.
        rotary_dim: as in `convert`.
        trailing: as in `convert`.

    Raises:
        ShapeError: the number of rows is no multiple of num_heads.
        ConfigError: as in `convert`.
    """
    if num_heads < 1 or not weight.ndim or weight.shape[0] % num_heads:
        raise ShapeError("weight", f"of rows for {num_heads} heads", list(weight.shape))
    heads = weight.reshape(num_heads, -1, *weight.shape[1:]).movedim(1, -1)
    converted = convert(heads, source, target, rotary_dim=rotary_dim, trailing=trailing)
    return converted.movedim(-1, 1).flatten(0, 1)
