"""What a rotation says by itself: pairs, frequencies, gain, offset."""

import math
from typing import Any

import torch
from torch import Tensor

from rope_core.config import Layout, RopeConfig
from rope_core.diagnosis.angles.angle_table import AngleTable
from rope_core.diagnosis.angles.slopes import scaled_base
from rope_core.diagnosis.calls import Clues, RotaryCall
from rope_core.diagnosis.result import Measured
from rope_core.diagnosis.rotation.search import Search, wrong_calls

STILL = 1e-9
"""Angle, in radians, that no float32 number shows."""

VAGUE = 0.1
"""Relative error of a frequency from which on the frequency is not decided."""

ROUNDED = 0.1
"""Error of an angle due to the dtype, as a part of the tolerance."""


def measured_numbers(
    search: Search, shown: RotaryCall, *, is_known: bool
) -> tuple[Measured | None, Tensor | None]:
    """Return what the sample says, and the frequencies `[n]`, 0 for those that are not decided.

    Args:
        search: with the sample.
        shown: the call of the best explanation, or the right one.
        is_known: whether the sample is that of `shown`.
    """
    call = _best_pairs(search, shown, is_known=is_known)
    if call is None:
        return None, None
    table, clues, rope = search.table(call), search.measured(call), call.rope
    gain = clues.gain or 0.0
    is_still = float(((table.z - gain).abs() * table.weights).sum()) <= (
        search.evidence.tolerance * gain * float(table.weights.sum())
    )
    return from_angles(
        table,
        clues,
        rope_type=shown.rope.rope_type if is_known else None,
        layout=None if is_still or call.permutation or call.table_layout else rope.layout,
        rotary_dim=None if is_still else rope.rotary_dim,
        slice_start=None if is_still else rope.head_dim - rope.rotary_dim if rope.trailing else 0,
    )


def from_angles(
    table: AngleTable, clues: Clues, *, rope_type: str | None, **structure: Any
) -> tuple[Measured | None, Tensor | None]:
    """Return what angles say, and the frequencies `[n]`, 0 for those that are not decided.

    Args:
        table: the angles.
        clues: what `measure` found in them.
        rope_type: of the rope that gives the angles, None if no rope is known to.
        structure: the fields of `Measured` about channels.
    """
    if clues.inv_freq is None or clues.phase is None:
        return None, None
    slope = clues.inv_freq
    known = slope.isfinite()
    direction = None
    if bool((slope[known] != 0).any()):
        direction = 1 if float((slope[known].sign() * slope[known].abs().sqrt()).sum()) > 0 else -1
    fit = None
    if len(table.positions) == 1 and bool(known.any()):
        gains = torch.full_like(table.weights, clues.gain or 0.0)
        model = torch.where(known, torch.polar(gains, _angles(table, clues)), table.z)
        fit = table.relative_error(model)
    error = _slope_errors(table, clues)
    decided = known & (error <= VAGUE * slope.abs())
    turns = slope.abs() * float(table.positions.abs().max()) > STILL
    theta = scaled_base(slope.where(decided & turns, math.nan).abs())
    if direction is None:
        rope_type = None
    elif rope_type is None and theta is not None:
        rope_type = "default"
    offset = clues.position_offset
    if offset is not None and abs(offset) <= table.tolerance:  # the rounding of the angles
        offset = 0.0
    measured = Measured(
        direction=direction,
        gain=clues.gain,
        position_offset=offset,
        position_scale=clues.position_scale,
        theta=theta,
        rope_type=rope_type,
        fit=fit if fit is None or math.isfinite(fit) else None,
        unresolved_pairs=tuple((~decided).nonzero().flatten().tolist()),
        **structure,
    )
    return measured, (slope.where(decided, 0) * (direction or 1)).float()


def _angles(table: AngleTable, clues: Clues) -> Tensor:
    """Return the angles of the measured lines, `[T, n]`, 0 for pairs without one."""
    assert clues.inv_freq is not None, "the caller has them"
    assert clues.phase is not None, "the caller has them"
    axis = torch.zeros_like(clues.inv_freq).long() if clues.axis is None else clues.axis
    positions = table.positions[axis.clamp_min(0)].mT
    return positions * clues.inv_freq.nan_to_num() + clues.phase.nan_to_num()


def _slope_errors(table: AngleTable, clues: Clues) -> Tensor:
    """Return how far off the measured frequencies may be, `[n]`.

    Infinity for a pair without tokens as near to each other as those of others: whole turns are
    lost between them.
    """
    assert clues.inv_freq is not None, "the caller has them"
    axis = torch.zeros_like(clues.inv_freq).long() if clues.axis is None else clues.axis
    positions = table.positions[axis.clamp_min(0)].mT
    turned = torch.polar(torch.ones_like(table.weights), -_angles(table, clues))
    total = table.weights.sum(0).clamp_min(1e-300)
    mean = (positions * table.weights).sum(0) / total
    spread = ((positions - mean).square() * table.weights).sum(0) / total
    misfit = ((table.z * turned).angle().square() * table.weights).sum(0) / total
    count = (table.weights > 0).sum(0).clamp_min(1)  # a line hides the noise of few tokens
    noise = misfit.sqrt().maximum(ROUNDED * table.tolerance / (count - 2).clamp_min(1))
    error = noise / (spread * count).sqrt().clamp_min(1e-300)
    if bool((table.weights > 0).all()):
        return error
    gaps = torch.stack(
        [_least_gap(p[w > 0]) for p, w in zip(positions.mT, table.weights.mT, strict=True)]
    )
    return error.where(gaps <= gaps.amin(), torch.inf)


def _least_gap(positions: Tensor) -> Tensor:
    """Return the least distance between two of the positions, infinity if there are no two."""
    where = torch.unique(positions)
    return where.diff().amin() if len(where) > 1 else torch.tensor(torch.inf).double()


def _best_pairs(search: Search, shown: RotaryCall, *, is_known: bool) -> RotaryCall | None:
    """Return a call whose pairs fit the sample: the one shown, or else the one that fits best.

    A call in which more channels turn than change is not taken, unless the evidence is its own.
    """
    width = search.clues.rotary_dim
    best: RotaryCall | None = shown
    if not search.fits(shown):
        calls = [wrong for _, (_, wrong) in wrong_calls(search.right, search.clues)]
        closest = min(calls, key=search.misfit, default=shown)
        best = closest if search.fits(closest) else None
    if best is None or (not is_known and width is not None and width < best.rope.rotary_dim):
        plain = min(_plain_calls(search.right, width), key=search.misfit)
        return plain if search.fits(plain) else best
    return best


def _plain_calls(right: RotaryCall, width: int | None) -> list[RotaryCall]:
    """Return rotations of `width` channels at either end of a head, None for the whole head."""
    head_dim = right.rope.head_dim
    width = head_dim - head_dim % 2 if width is None else width
    layouts: tuple[Layout, ...] = ("half", "interleaved")
    return [
        RotaryCall(
            rope=RopeConfig(head_dim=head_dim, rotary_dim=width, layout=layout, trailing=trailing),
            positions=right.positions[:1],
            shape=right.shape,
        )
        for layout in layouts
        for trailing in (False, True)
    ]
