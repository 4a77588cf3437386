"""What a rotation says by itself: pairs, frequencies, gain, offset."""

import math
from typing import Any

import torch
from torch import Tensor

from rope_core.diagnosis.angles.angle_table import AngleTable
from rope_core.diagnosis.angles.slopes import scaled_base
from rope_core.diagnosis.calls import Clues, RotaryCall
from rope_core.diagnosis.result import Measured
from rope_core.diagnosis.rotation.search import Search, wrong_calls


def measured_numbers(
    search: Search, shown: RotaryCall, *, is_known: bool
) -> tuple[Measured | None, Tensor | None]:
    """Return what the sample says, and the frequencies `[n]`, 0 for those that are not decided.

    Args:
        search: with the sample.
        shown: the call of the best explanation, or the right one.
        is_known: whether the sample is that of `shown`.
    """
    call = _best_pairs(search, shown)
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
    slope, phase = clues.inv_freq, clues.phase
    if slope is None or phase is None:
        return None, None
    decided = slope.isfinite()
    direction = None
    if bool((slope[decided] != 0).any()):
        direction = (
            1 if float((slope[decided].sign() * slope[decided].abs().sqrt()).sum()) > 0 else -1
        )
    fit = None
    if len(table.positions) == 1 and bool(decided.any()):
        angles = table.positions[0, :, None] * slope.nan_to_num() + phase.nan_to_num()
        gains = torch.full_like(angles, clues.gain or 0.0)
        model = torch.where(decided, torch.polar(gains, angles), table.z)
        fit = table.relative_error(model)
    theta = scaled_base(slope.abs())
    if direction is None:
        rope_type = None
    elif rope_type is None and theta is not None:
        rope_type = "default"
    measured = Measured(
        direction=direction,
        gain=clues.gain,
        position_offset=clues.position_offset,
        position_scale=clues.position_scale,
        theta=theta,
        rope_type=rope_type,
        fit=fit if fit is None or math.isfinite(fit) else None,
        unresolved_pairs=tuple((~decided).nonzero().flatten().tolist()),
        **structure,
    )
    return measured, (slope.nan_to_num() * (direction or 1)).float()


def _best_pairs(search: Search, shown: RotaryCall) -> RotaryCall | None:
    """Return a call whose pairs fit the sample: the one shown, or else the one that fits best."""
    if search.fits(shown):
        return shown
    calls = [wrong for _, (_, wrong) in wrong_calls(search.right, search.clues)]
    best = min(calls, key=search.misfit, default=None)
    return best if best is not None and search.fits(best) else None
