"""Layouts: which channels form a pair, and how to convert between them.

All of them are one operator, x'[c] = x[c] * C[c] + x[partner of c] * S[c], with the sign of the
partner in J: (x, y) -> (-y, x).
"""

import torch
from torch import Tensor

from rope_core.errors import ConfigError, ShapeError

PAIRS_APART = ("half", "interleaved_to_half")
"""Layouts that work on pairs (i, i + d/2), the second of them after it has reordered them so."""

ANGLES_TILED = ("half", "interleaved_to_half", "interleaved_tiled")
"""Layouts in which channel c has the angle c mod n."""


def spread(table: Tensor, layout: str, width: int) -> Tensor:
    """Return a table of angles `[..., n]` for each of `width` channels."""
    if table.shape[-1] == width:  # each channel has an angle of its own (XD-RoPE)
        return table
    if layout in ANGLES_TILED:
        return torch.cat((table, table), -1)
    return table.repeat_interleave(2, -1)


def quarter_turn(x: Tensor, layout: str) -> Tensor:
    """Return J x, each pair (x, y) turned to (-y, x)."""
    if layout in PAIRS_APART:
        first, second = x.chunk(2, -1)
        return torch.cat((-second, first), -1)
    return torch.stack((-x[..., 1::2], x[..., 0::2]), -1).flatten(-2)


def partners(table: Tensor, layout: str) -> Tensor:
    """Return a table by channel, `[..., d]`, with the members of each pair exchanged."""
    if layout in PAIRS_APART:
        return table.roll(table.shape[-1] // 2, -1)
    return table.view(*table.shape[:-1], -1, 2).flip(-1).flatten(-2)


def halves(x: Tensor) -> Tensor:
    """Return P x: the first members of neighbouring pairs, then all the second ones."""
    return torch.cat((x[..., 0::2], x[..., 1::2]), -1)


def neighbours(x: Tensor) -> Tensor:
    """Return P^-1 x: what `halves` takes apart."""
    first, second = x.chunk(2, -1)
    return torch.stack((first, second), -1).flatten(-2)


def convert(
    x: Tensor, source: str, target: str, *, rotary_dim: int | None = None, trailing: bool = False
) -> Tensor:
    """Return vectors of heads `[..., head_dim]`, reordered from one layout to the other.

    rope_half(P x) = P rope_interleaved(x): scores stay what they are when q and k are both
    converted. Channels outside the rotated slice stay where they are.

    Args:
        x: any dtype.
        source: "half" or "interleaved", the layout of `x`.
        target: the layout wanted.
        rotary_dim: how many channels rotate; all of them where None.
        trailing: whether those are the last ones.

    Raises:
        ConfigError: a layout is neither of the two, or rotary_dim odd or wider than a head.
        ShapeError: x has no dimension.
    """
    for name, layout in (("source", source), ("target", target)):
        if layout not in ("half", "interleaved"):
            raise ConfigError(name, '"half" or "interleaved"', repr(layout))
    if not x.ndim:
        raise ShapeError("x", "[..., head_dim]", "one number")
    width = x.shape[-1]
    rotary_dim = width if rotary_dim is None else rotary_dim
    if rotary_dim % 2 or not 0 < rotary_dim <= width:
        raise ConfigError("rotary_dim", f"even and in [2, {width}]", rotary_dim)
    if source == target:
        return x.clone()
    start = width - rotary_dim if trailing else 0
    reorder = halves if target == "half" else neighbours
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
        weight: `[num_heads * head_dim, ...]`; a bias, or a norm's weight of all heads, too.
        num_heads: those of this very projection: k has `num_key_value_heads` under GQA.
        source: as in `convert`.
        target: as in `convert`.
        rotary_dim: as in `convert`.
        trailing: as in `convert`.

    Raises:
        ShapeError: the rows are no multiple of num_heads.
        ConfigError: as in `convert`.
    """
    if num_heads < 1 or not weight.ndim or weight.shape[0] % num_heads:
        raise ShapeError("weight", f"of rows for {num_heads} heads", list(weight.shape))
    heads = weight.reshape(num_heads, -1, *weight.shape[1:]).movedim(1, -1)
    moved = convert(heads, source, target, rotary_dim=rotary_dim, trailing=trailing)
    return moved.movedim(-1, 1).flatten(0, 1)
