"""Tables of angles by position, and their cache."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rope_core import ragged
from rope_core.axes import Columns, summed
from rope_core.backends import fused
from rope_core.config import RopeConfig
from rope_core.frequencies import xpos_zeta

TABLE_ELEMENTS = 2**20
"""Most cosines that one cached table holds; positions beyond it are computed for each call."""


TOKEN_ROWS = 4096
"""Most positions of single tokens whose cosines are kept: all layers of a model ask for one."""


SHARED_ELEMENTS = 2**18
"""From here on, rows of a batch are rotated one by one rather than given a table each."""


class Angles(NamedTuple):
    """Cosine and sine of each token's angles, times the gain: float32 `[tokens, n]`.

    `[tokens, H, n]` where frequencies are learned for each head.
    """

    cos: Tensor
    sin: Tensor
    scale: Tensor | None = None
    """xPos: what q is multiplied by and k divided by, `[tokens, n]`."""


class Products(NamedTuple):
    """Angles that a kernel computes: products of positions and frequencies."""

    positions: Tensor
    """`[tokens]`."""
    inv_freq: Tensor
    """float64 `[n]`, on the device of the positions."""
    gain: float

    @property
    def scale(self) -> None:
        """There is none: xPos has tables."""


def token_angles(
    x: Tensor,
    positions: Tensor | None,
    cu_seqlens: Tensor | None,
    rope: RopeConfig,
    frequencies: Tensor | None = None,
    backend: str | None = None,
) -> Angles | Products:
    """Return the angles of the tokens of `x`, batch and sequence laid end to end.

    Of one row alone, where large rows have the same positions: they take turns with its table.
    Not computed yet, where kernels will: on a GPU, or where `backend` says so.
    """
    columns, rows = rope.columns, x.shape[0] if x.ndim == 4 else 1
    if (steps := _steps(rope, x.device, backend)) is not None:
        flat = ragged.token_positions(x, positions, cu_seqlens)
        return Products(flat, steps, rope.attention_scaling)
    if x.is_cpu and (positions is None or positions.ndim == 1):
        if rows > 1 and x.numel() >= rows * SHARED_ELEMENTS and columns.num_axes == 1:
            x, rows = x[0], 1
        if rows == 1 and positions is not None:
            return angles(positions, rope, frequencies)
    if positions is None and cu_seqlens is None and frequencies is None:
        at = _counted(x.shape[-3], rope, x.device)
        return at if rows == 1 else _each(lambda t: t.repeat(rows, 1), at)
    flat = ragged.token_positions(x, positions, cu_seqlens, has_axes(x, positions, rope))
    return angles(flat, rope, frequencies)


def has_axes(x: Tensor, positions: Tensor | None, rope: RopeConfig) -> bool:
    """Tell whether the first dimension of the positions of `x` is that of axes."""
    columns = rope.columns
    if positions is None or columns.num_axes == 1:
        return rope.learned == "frequencies"
    return not columns.of_text or positions.ndim == x.ndim - 1


def angles(positions: Tensor, rope: RopeConfig, frequencies: Tensor | None = None) -> Angles:
    """Return the angles at `positions` `[tokens]` or `[A, tokens]`."""
    if (
        frequencies is not None
        or positions.dtype.is_floating_point
        or not positions.is_cpu
        or not positions.numel()
        or (positions.ndim > 1 and rope.columns.coupled)
    ):
        return _compute(positions, rope, frequencies)
    one = positions.numel() == 1
    first, last = (int(positions.item()),) * 2 if one else map(int, positions.aminmax())
    rows = _rows(last + 1, rope)
    if first < 0 or rows is None or rows > max(1024, 64 * positions.shape[-1]):
        return _compute(positions, rope)
    table = _table(rope, rows)
    if positions.ndim > 1:  # each column from the row of its own axis
        axis = rope.columns.axis
        assert axis is not None, "there are several"
        whole = positions if positions.dtype is torch.int64 else positions.long()
        own = whole.index_select(0, axis).mT
        return Angles(table.cos.gather(0, own), table.sin.gather(0, own))
    if one:
        return _each(lambda t: t[first : last + 1], table)
    return _each(lambda t: t.index_select(0, positions), table)


def of_key(at: Angles | Products) -> Angles | Products:
    """Return the angles of keys, given those of queries: xPos scales them the other way."""
    return (
        at._replace(scale=1 / at.scale) if isinstance(at, Angles) and at.scale is not None else at
    )


def _counted(length: int, rope: RopeConfig, device: torch.device) -> Angles:
    rows = _rows(length, rope) if device.type == "cpu" else None
    if rows is None:
        return _compute(torch.arange(length, device=device), rope)
    return _each(lambda t: t[:length], _table(rope, rows))


def _each(take: Callable[[Tensor], Tensor], at: Angles) -> Angles:
    return Angles(take(at.cos), take(at.sin), None if at.scale is None else take(at.scale))


def _rows(needed: int, rope: RopeConfig) -> int | None:
    """Return the length of the table that has `needed` positions, None where none may be."""
    rows = max(256, 1 << (needed - 1).bit_length()) if needed > 0 else 256
    return rows if rows * rope.half <= TABLE_ELEMENTS else None


@lru_cache(maxsize=16)
def _table(rope: RopeConfig, rows: int) -> Angles:
    return _compute(torch.arange(rows), rope)


def _steps(rope: RopeConfig, device: torch.device, backend: str | None) -> Tensor | None:
    """Return the frequencies where a kernel computes the angles, else None."""
    asked = backend == fused.name or (backend is None and not fused.only_named(device))
    return _frequencies(rope, device) if asked and fused.unavailable(device) is None else None


@lru_cache(maxsize=64)
def _frequencies(rope: RopeConfig, device: torch.device) -> Tensor | None:
    """Return float64 `[half]` on the device; None where angles are more than products."""
    if not fused.turns(rope):
        return None
    inv_freq = rope.columns.inv_freq.to(device)
    return -inv_freq if rope.negative else inv_freq.contiguous()


@lru_cache(maxsize=TOKEN_ROWS)
def _token_row(rope: RopeConfig, at: int) -> tuple[Tensor, Tensor] | None:
    """Return cosine and sine `[half]` at a position; None where `_rotate_token` has more to do."""
    usual = rope.layout == "half" and rope.rounding == "once" and rope.blocks == 1
    whole = rope.rotary_dim == rope.head_dim and rope.axes is None and rope.learned is None
    if not usual or not whole or rope.rope_type == "xpos":
        return None
    row = angles(torch.tensor([at]), rope)
    return row.cos[0].clone(), row.sin[0].clone()  # a view would keep its whole table


def _compute(
    positions: Tensor, rope: RopeConfig, frequencies: Tensor | None = None, *, pure: bool = False
) -> Angles:
    """Return the angles at `positions` `[tokens]` or `[A, tokens]`; `pure`: in float64, no gain."""
    columns = _columns(rope, frequencies, positions.device)
    dtype = torch.float64 if pure else columns.inv_freq.dtype
    numbers = positions.to(dtype)
    rows = numbers.expand(columns.num_axes, -1) if numbers.ndim == 1 else numbers
    radians = columns.angles(rows, columns)
    if rope.rounding == "complex" and not pure:
        turn = torch.polar(torch.ones_like(radians), radians)
        cos, sin = turn.real, turn.imag
    else:
        cos, sin = radians.cos(), radians.sin()
    if rope.attention_scaling != 1 and not pure:
        cos, sin = cos * rope.attention_scaling, sin * rope.attention_scaling
    if rope.negative:
        sin = -sin
    return Angles(cos.float(), sin.float(), _xpos_scale(numbers, rope, pure))


def _columns(rope: RopeConfig, frequencies: Tensor | None, device: torch.device) -> Columns:
    """Return the columns of a call, on the device of its positions."""
    if frequencies is not None and rope.learned == "frequencies":
        return summed(frequencies.to(device), rope.rotary_dim)
    columns = rope.columns if device.type == "cpu" else _device_columns(rope, device)
    if frequencies is None:
        return columns
    factor = frequencies.to(columns.inv_freq).exp()
    return replace(columns, inv_freq=columns.inv_freq * factor)


@lru_cache(maxsize=256)
def _device_columns(rope: RopeConfig, device: torch.device) -> Columns:
    """Return the columns of a rope on a device, copied once, as a copy makes the host wait."""
    columns = rope.columns
    axis = None if columns.axis is None else columns.axis.to(device)
    return replace(columns, inv_freq=columns.inv_freq.to(device), axis=axis)


@lru_cache(maxsize=64)
def _device_zeta(dim: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the base of each pair's scale in xPos, on a device."""
    return xpos_zeta(dim, dtype).to(device)


def _xpos_scale(positions: Tensor, rope: RopeConfig, pure: bool) -> Tensor | None:
    if rope.rope_type != "xpos":
        return None
    given: dict[str, Any] = dict(rope.parameters)
    centre = 0 if pure else given.get("length", 0) // 2
    power = (positions - centre) / given.get("scale_base", 512.0)
    dim = rope.frequency_dim or rope.rotary_dim
    zeta = _device_zeta(dim, positions.dtype, positions.device)
    scale: Tensor = zeta ** power[:, None]
    return scale.float()
