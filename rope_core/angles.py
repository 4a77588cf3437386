"""Cosine and sine tables of angles by position, and their cache."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rope_core import ragged
from rope_core.axes import FrequencyTable, learned_frequencies
from rope_core.backends import fused
from rope_core.config import RopeConfig
from rope_core.frequencies import xpos_zeta

TABLE_ELEMENTS = 2**20
"""Most cosines of one cached table. Farther positions are computed for each call."""

MIN_TABLE_ROWS = 256
"""Positions of the smallest cached table."""

USUAL_TABLE_ROWS = 1024
"""Positions of a cached table that is worth its time however few tokens need it."""

TABLE_ROWS_PER_TOKEN = 64
"""Positions of a larger cached table, at most, for each token that needs it."""

CACHED_TOKENS = 4096
"""Most positions of single tokens with cached angles: all layers of a model need the same."""

CACHED_PAIRS = 256
"""Most pairs of a rope whose angles are cached for single tokens: a rope may have lists of numbers
for each pair, and the cache keeps the ropes."""

ROW_ELEMENTS = 2**18
"""Rows of a batch from this size on are rotated one by one, with one table for all."""


class Angles(NamedTuple):
    """Cosine and sine of the angles of each token, times the attention scaling.

    float32 `[tokens, n]`, or `[tokens, H, n]` if frequencies are learned for each head.
    """

    cos: Tensor
    sin: Tensor
    scale: Tensor | None = None
    """xPos: factor of q and divisor of k, `[tokens, n]`."""

    def map(self, function: Callable[[Tensor], Tensor]) -> "Angles":
        """Return `function` of each tensor."""
        scale = None if self.scale is None else function(self.scale)
        return Angles(function(self.cos), function(self.sin), scale)


class FusedAngles(NamedTuple):
    """Angles that a kernel computes: products of positions and frequencies."""

    positions: Tensor
    """`[tokens]`."""
    inv_freq: Tensor
    """float64 `[n]`, on the device of the positions."""
    attention_scaling: float
    scale: None = None
    """xPos has no fused angles."""


def token_angles(
    x: Tensor,
    positions: Tensor | None,
    cu_seqlens: Tensor | None,
    rope: RopeConfig,
    frequencies: Tensor | None = None,
    backend: str | None = None,
) -> Angles | FusedAngles:
    """Return the angles of the tokens of `x`, rows of a batch one after the other.

    Args:
        x: `[B, S, H, D]` or `[T, H, D]`.
        positions: `[S]`, `[B, S]` or `[T]`, of several axes `[A, B, S]` or `[A, T]`; None counts.
        cu_seqlens: `[N + 1]`, or None.
        rope: the frequencies.
        frequencies: learned ones, `[A, H, n]` or `[n]`, or None.
        backend: the name of the backend that will rotate; None for no preference.

    Returns:
        `[tokens, n]`; `[S, n]` if rows of a batch are large and have the same positions. Fused if
        the kernels compute the angles: on a GPU, or if they are named.
    """
    if (inv_freq := _device_inv_freq(rope, x.device, backend)) is not None:
        flat = ragged.token_positions(x, positions, cu_seqlens)
        return FusedAngles(flat, inv_freq, rope.attention_scaling)
    rows = x.shape[0] if x.ndim == 4 else 1
    if (
        rows > 1
        and x.is_cpu
        and (positions is None or positions.ndim == 1)
        and x.numel() >= rows * ROW_ELEMENTS
        and rope.num_axes == 1
    ):
        x, rows = x[0], 1
    if positions is not None and rows == 1 and x.is_cpu:
        if positions.ndim == 1:
            return angles_at(positions, rope, frequencies)
        if positions.numel() == 1:
            return angles_at(positions.reshape(1), rope, frequencies)
    if positions is None and cu_seqlens is None and frequencies is None:
        angles = _first_angles(x.shape[-3], rope, x.device)
        return angles if rows == 1 else angles.map(lambda t: t.repeat(rows, 1))
    flat = ragged.token_positions(x, positions, cu_seqlens, has_axes(x, positions, rope))
    return angles_at(flat, rope, frequencies)


def has_axes(x: Tensor, positions: Tensor | None, rope: RopeConfig) -> bool:
    """Tell whether the first dimension of the positions of `x` `[..., H, D]` is the axes."""
    if positions is None or rope.num_axes == 1:
        return rope.learned == "frequencies"
    return not rope.frequency_table.broadcasts_axes or positions.ndim == x.ndim - 1


def angles_at(positions: Tensor, rope: RopeConfig, frequencies: Tensor | None = None) -> Angles:
    """Return the angles at `positions` `[tokens]` or `[A, tokens]`: `[tokens, n]`, maybe cached."""
    if (
        frequencies is not None
        or positions.dtype.is_floating_point
        or not positions.is_cpu
        or not positions.numel()
        or (positions.ndim > 1 and rope.frequency_table.coupled)
    ):
        return compute_angles(positions, rope, frequencies)
    if positions.ndim == 1 and positions.numel() == 1 and rope.half <= CACHED_PAIRS:
        return _token_angles(rope, int(positions.item()))
    first, last = map(int, positions.aminmax())
    rows = table_rows(last + 1, rope)
    if first < 0 or rows is None or not is_table_worthwhile(rows, positions.shape[-1]):
        return compute_angles(positions, rope)
    table = position_table(rope, rows)
    if positions.ndim == 1:
        return table.map(lambda t: t.index_select(0, positions))
    axis = rope.frequency_table.axis
    assert axis is not None, "positions have several axes"
    whole = positions if positions.dtype is torch.int64 else positions.long()
    index = whole.index_select(0, axis).mT  # [tokens, n]: each column reads the row of its axis
    return table.map(lambda t: t.gather(0, index))


def key_angles(angles: Angles | FusedAngles) -> Angles | FusedAngles:
    """Return the angles of keys from those of queries: xPos divides keys by its scale."""
    if isinstance(angles, FusedAngles) or angles.scale is None:
        return angles
    return angles._replace(scale=1 / angles.scale)


def inverse_factor(rope: RopeConfig) -> float:
    """Return the factor of cosine and sine, which have the attention scaling, to rotate back."""
    if rope.attention_scaling == 1 or not rope.is_rotation:
        return 1.0
    return float(rope.attention_scaling**-2)


def shift_angles(
    delta: Tensor, rope: RopeConfig, backend: str | None = None
) -> Angles | FusedAngles:
    """Return the angles of a shift by `delta` `[tokens]`: float64, without attention scaling."""
    if (inv_freq := _device_inv_freq(rope, delta.device, backend)) is not None:
        return FusedAngles(delta, inv_freq, 1.0)
    return compute_angles(delta, rope, is_shift=True)


def _first_angles(length: int, rope: RopeConfig, device: torch.device) -> Angles:
    """Return the angles at positions 0, 1, ..., `[length, n]`."""
    rows = table_rows(length, rope) if device.type == "cpu" else None
    if rows is None:
        return compute_angles(torch.arange(length, device=device), rope)
    return position_table(rope, rows).map(lambda t: t[:length])


def table_rows(num_positions: int, rope: RopeConfig) -> int | None:
    """Return the rows of the cached table with `num_positions`; None if it would be too large."""
    rows = max(MIN_TABLE_ROWS, 1 << max(0, num_positions - 1).bit_length())
    return rows if rows * rope.half <= TABLE_ELEMENTS else None


def is_table_worthwhile(rows: int, num_tokens: int) -> bool:
    """Tell whether to make a table of `rows` for so many tokens."""
    return rows <= max(USUAL_TABLE_ROWS, TABLE_ROWS_PER_TOKEN * num_tokens)


@lru_cache(maxsize=16)
def position_table(rope: RopeConfig, rows: int) -> Angles:
    """Return the angles at positions 0, 1, ..., `[rows, n]`."""
    return compute_angles(torch.arange(rows), rope)


@lru_cache(maxsize=CACHED_TOKENS)
def _token_angles(rope: RopeConfig, position: int) -> Angles:
    """Return the angles at one position, `[1, n]`."""
    rows = table_rows(position + 1, rope)
    if position < 0 or rows is None or rows > USUAL_TABLE_ROWS:
        return compute_angles(torch.tensor([position]), rope)
    # a view would keep the whole table in memory
    return position_table(rope, rows).map(lambda t: t[position : position + 1].clone())


def token_angles_at(rope: RopeConfig, position: int) -> Angles:
    """Return the angles of one token of a rope of one axis, `[1, n]`, contiguous, as `angles_at`.

    Rows of a cached table where there is one: views, which are not to be kept.
    """
    rows = table_rows(position + 1, rope)
    if position < 0 or rows is None or rows > USUAL_TABLE_ROWS:
        return _token_angles(rope, position)
    cos, sin, scale = position_table(rope, rows)
    row = slice(position, position + 1)
    return Angles(cos[row], sin[row], None if scale is None else scale[row])


def _device_inv_freq(rope: RopeConfig, device: torch.device, backend: str | None) -> Tensor | None:
    """Return the frequencies, float64 `[n]`, if kernels compute the angles, else None."""
    is_fused = backend == fused.name or (backend is None and not fused.only_named(device))
    return _inv_freq_on(rope, device) if is_fused and fused.unavailable(device) is None else None


@lru_cache(maxsize=64)
def _inv_freq_on(rope: RopeConfig, device: torch.device) -> Tensor | None:
    """Return the frequencies on the device, `[n]`; None if angles are more than products."""
    if not fused.computes_angles(rope):
        return None
    inv_freq = rope.frequency_table.inv_freq.to(device)
    return -inv_freq if rope.negative else inv_freq.contiguous()


def compute_angles(
    positions: Tensor,
    rope: RopeConfig,
    frequencies: Tensor | None = None,
    *,
    is_shift: bool = False,
) -> Angles:
    """Compute the angles at `positions` `[tokens]` or `[A, tokens]`: `[tokens, n]`.

    `is_shift`: in float64 whatever the arithmetic of the rope, without attention scaling.
    """
    table = _frequency_table(rope, frequencies, positions.device)
    positions = positions.to(torch.float64 if is_shift else table.inv_freq.dtype)
    rows = positions.expand(table.num_axes, -1) if positions.ndim == 1 else positions
    radians = table.angles(rows, table)
    if rope.rounding == "complex" and not is_shift:
        phasors = torch.polar(torch.ones_like(radians), radians)
        cos, sin = phasors.real, phasors.imag
    else:
        cos, sin = radians.cos(), radians.sin()
    if rope.attention_scaling != 1 and not is_shift:
        cos, sin = cos * rope.attention_scaling, sin * rope.attention_scaling
    if rope.negative:
        sin = -sin
    scale = xpos_scale(positions, rope, is_shift).float() if rope.rope_type == "xpos" else None
    return Angles(cos.float(), sin.float(), scale)


def _frequency_table(
    rope: RopeConfig, frequencies: Tensor | None, device: torch.device
) -> FrequencyTable:
    """Return the frequencies of a call on the device of its positions."""
    if frequencies is not None and rope.learned == "frequencies":
        return learned_frequencies(frequencies.to(device))
    table = rope.frequency_table if device.type == "cpu" else _device_table(rope, device)
    if frequencies is None:
        return table
    return replace(table, inv_freq=table.inv_freq * frequencies.to(table.inv_freq).exp())


@lru_cache(maxsize=256)
def _device_table(rope: RopeConfig, device: torch.device) -> FrequencyTable:
    """Return the frequencies of a rope on a device, copied once: the host waits for each copy."""
    table = rope.frequency_table
    axis = None if table.axis is None else table.axis.to(device)
    return replace(table, inv_freq=table.inv_freq.to(device), axis=axis)


def xpos_scale(positions: Tensor, rope: RopeConfig, is_shift: bool) -> Tensor:
    """Return xPos's scale of q at `positions` `[tokens]`: `[tokens, n]`, in their dtype."""
    parameters: dict[str, Any] = dict(rope.parameters)
    centre = 0 if is_shift else parameters.get("length", 0) // 2
    power = (positions - centre) / parameters.get("scale_base", 512.0)
    dim = rope.frequency_dim or rope.rotary_dim
    scale: Tensor = xpos_zeta(dim, positions.dtype, positions.device) ** power[:, None]
    return scale
