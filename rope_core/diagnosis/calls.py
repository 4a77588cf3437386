"""A rotation as some code computes it: the right one, and those with mistakes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from rope_core.angles import xpos_scale
from rope_core.config import RopeConfig
from rope_core.hf import Resolved

BEYOND_FLOAT16 = 65_520.0
"""The least number that rounds to infinity in float16. NumPy warns of such numbers."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RotaryCall:
    """A rotation as some code computes it.

    A mistake changes fields of the right call with `dataclasses.replace`. Whatever a `RopeConfig`
    can say is in `rope`: base, variant, widths, layout, trailing slice, direction, axes. A rope
    that depends on the length of the call has its length already.
    """

    rope: RopeConfig
    positions: Tensor
    """float64 `[A, T]`: of all tokens of the evidence, A numbers each; A = `rope.num_axes`."""

    shape: tuple[int, int, int]
    """B, S, H: rows of the batch, tokens of each, heads. T = B * S. Packed tokens: (1, T, H);
    a table: (1, T, 1)."""

    times: int = 1
    """How many times the rotation is applied: 0, 1 or 2."""

    gain: float | None = None
    """Factor of cosine and sine; None for that of `rope`."""

    table_layout: Literal["half", "interleaved"] | None = None
    """Layout of the columns of the tables, if it is not that of the pairs."""

    permutation: tuple[int, ...] | None = None
    """The rotated head is reordered: `[..., permutation]`."""

    position_axis: Literal["tokens", "heads", "batch"] = "tokens"
    """Along which axis of the tensors the positions run. Unless it is "tokens", `positions` are
    those of the heads, `[A, H]`, or of the rows, `[A, B]`."""

    positions_dtype: torch.dtype | None = None
    """Positions are rounded to it."""

    frequencies_dtype: torch.dtype | None = None
    """Frequencies are rounded to it."""

    angles_dtype: torch.dtype | None = None
    """Angles are rounded to it."""

    arithmetic_dtype: torch.dtype | None = None
    """Positions are multiplied by frequencies in it; None for the arithmetic of `rope`."""

    @property
    def is_repeated(self) -> bool:
        """Whether it is applied twice, and that is no rotation of the same pairs."""
        is_plain = self.rope.is_rotation and self.rope.layout != "interleaved_to_half"
        return self.times == 2 and not (is_plain and self.table_layout is None)

    @property
    def slots(self) -> Tensor:
        """The index of each token in its row, float64 `[T]`."""
        rows, tokens, _ = self.shape
        return torch.arange(tokens, dtype=torch.float64).repeat(rows)


def predict(call: RotaryCall, index: Tensor | None = None) -> Tensor:
    """Return gain * exp(i angle) of each token and pair, complex128 `[T, n]`.

    Args:
        call: the rotation; its layout, slice and permutation change nothing here.
        index: int64, the tokens to compute; None for all.
    """
    rope, positions = call.rope, call.positions
    if index is not None:
        positions = positions.index_select(1, index)
    table = rope.frequency_table
    inv_freq, dtype = table.inv_freq, call.arithmetic_dtype or table.inv_freq.dtype
    if call.times == 0:
        return torch.ones((positions.shape[1], len(inv_freq)), dtype=torch.complex128)
    if call.frequencies_dtype is not None:
        inv_freq = rounded(inv_freq, call.frequencies_dtype)
    if call.positions_dtype is not None:
        positions = rounded(positions, call.positions_dtype)
    table = replace(table, inv_freq=inv_freq.to(dtype))
    rows = positions.to(dtype).expand(table.num_axes, -1)
    radians = table.angles(rows, table)
    if call.angles_dtype is not None:
        radians = rounded(radians, call.angles_dtype)
    radians = radians.double() * (-call.times if rope.negative else call.times)
    gain = rope.attention_scaling if call.gain is None else call.gain
    factors = torch.complex(radians.cos(), radians.sin()).mul_(gain**call.times)
    if rope.rope_type == "xpos":
        factors *= xpos_scale(positions[0].double(), rope, is_shift=False).abs()
    return factors


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `x` rounded to a dtype, as NumPy does. PyTorch rounds to float16 by way of float32."""
    if x.dtype == torch.float64 and dtype == torch.float16:
        without_overflow = torch.where(x.abs() < BEYOND_FLOAT16, x, x * torch.inf)
        return torch.from_numpy(without_overflow.numpy().astype("float16"))
    return x.to(dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clues:
    """What was measured, and what the rope was given as, for mistakes that need it."""

    resolved: Resolved | None = None
    """The layer of a model, if the rope is one; None for parameters."""

    resolve: Callable[..., Resolved] | None = None
    """Resolve the same model with other options (`layer`, `layer_type`, `compat`); None for
    parameters."""

    inv_freq: Tensor | None = None
    """float64 `[n]`: measured frequencies, negative if they turn the other way, NaN for those that
    are not decided."""

    phase: Tensor | None = None
    """float64 `[n]`: measured angles at position 0, NaN for those that are not decided."""

    axis: Tensor | None = None
    """int64 `[n]`: the axis of positions that each pair follows, -1 if it is not decided; None if
    positions have one axis."""

    gain: float | None = None
    position_offset: float | None = None
    position_scale: float | None = None
    theta: float | None = None
    rotary_dim: int | None = None

    permutation: tuple[int, ...] | None = None
    """Measured: the evidence is expected[..., permutation]."""
