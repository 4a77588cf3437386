"""A rotation as some code computes it: the right one, and those with mistakes."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rope_core.config import RopeConfig
from rope_core.hf import Resolved


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RotaryCall:
    """A rotation as some code computes it.

    A mistake changes fields of the right call with `dataclasses.replace`. Whatever a `RopeConfig`
    can say is in `rope`: base, variant, widths, layout, trailing slice, direction, axes.
    """

    rope: RopeConfig
    positions: Tensor
    """float64 `[A, T]`: of the tokens, A numbers each."""

    rows: int = 1
    """Sequences of the batch; token t is in row t // (T / rows)."""

    times: int = 1
    """How many times the rotation is applied: 0, 1 or 2."""

    gain: float | None = None
    """Factor of cosine and sine; None for that of `rope`."""

    table_layout: Literal["half", "interleaved"] | None = None
    """Layout of the columns of the tables, if it is not that of the pairs."""

    permutation: tuple[int, ...] | None = None
    """The rotated head is reordered: `[..., permutation]`."""

    position_axis: Literal["tokens", "heads", "batch"] = "tokens"
    """Along which axis of the tensors the positions run."""

    positions_dtype: torch.dtype | None = None
    """Positions are rounded to it."""

    frequencies_dtype: torch.dtype | None = None
    """Frequencies are rounded to it."""

    angles_dtype: torch.dtype | None = None
    """Angles are rounded to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clues:
    """What was measured, and what the rope was given as, for mistakes that need it."""

    resolved: Resolved | None = None
    """The layer of a model, if the rope is one; None for parameters."""

    inv_freq: Tensor | None = None
    """float64 `[n]`: measured frequencies, NaN for those that are not decided."""

    theta: float | None = None
    gain: float | None = None
    position_offset: float | None = None
    position_scale: float | None = None
    rotary_dim: int | None = None
