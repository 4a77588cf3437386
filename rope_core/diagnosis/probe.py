"""Which input tells explanations apart that the evidence cannot tell apart."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rope_core.diagnosis.calls import RotaryCall, predict
from rope_core.diagnosis.ranking import Candidate

POSITIONS = (1, 7, 64, 512, 4096, 32_768, 131_072, 1_048_576)
"""Positions to try."""

CLEAR = 0.01
"""Difference of two rotations that no dtype hides."""


def next_probe(told: Sequence[Candidate], right: RotaryCall, *, agrees: bool) -> str | None:
    """Return what to send next, or None if the evidence is enough.

    Args:
        told: candidates with a `RotaryCall`, best first.
        right: the call without mistakes.
        agrees: whether the evidence is that of the right call.
    """
    if right.times and not bool(right.positions.any()):
        return "positions 0 alone prove nothing: send positions 1 and 4096"
    if right.positions.shape[1] == 1:
        return "send more than one token, such as positions 1 and 4096"
    if right.times and bool((right.positions == right.positions[:, :1]).all()):
        return "send tokens at different positions, such as 1 and 4096"
    if agrees or len(told) < 2:
        return None
    calls = [candidate.call for candidate in told]
    if any(call.position_axis != "tokens" for call in calls):
        return "send more tokens than heads and rows, at positions other than 0, 1, 2, ..."
    positions = [_at_probes(call.positions, right.positions) for call in calls]
    if any(at is None for at in positions):
        return "send other positions, such as 1, 7 and 4096"
    first, *others = (
        predict(replace(call, positions=at.expand(call.rope.num_axes, -1)))
        for call, at in zip(calls, positions, strict=True)
        if at is not None
    )
    for other in others:
        if other.shape != first.shape:
            continue
        differences = (other - first).abs().amax(1)
        clear = (differences > CLEAR).nonzero().flatten()
        if len(clear):
            return f"send positions 1 and {POSITIONS[int(clear[0])]}"
    return _longer_call(calls)


def next_probe_of_frequencies(told: Sequence[Candidate]) -> str | None:
    """Return what to send in place of frequencies, None if no table tells the candidates apart."""
    tables = [_table(candidate.call, float(candidate.call.positions[0, 0])) for candidate in told]
    for other in tables[1:]:
        if other.shape == tables[0].shape:
            clear = ((other - tables[0]).abs().amax(1) > CLEAR).nonzero().flatten()
            if len(clear):
                return f"send a table at positions 1 and {POSITIONS[int(clear[0])]}"
    return _longer_call([candidate.call for candidate in told])


def _longer_call(calls: Sequence[RotaryCall]) -> str | None:
    """Return what to send if only some calls have the frequencies of a longer call."""
    dynamic = [call for call in calls if call.rope.rope_type == "dynamic"]
    if not dynamic or len(dynamic) == len(calls):
        return None
    parameters: dict[str, Any] = dict(dynamic[0].rope.parameters)
    longest = parameters.get("max_position_embeddings")
    if longest is None or (parameters.get("length") or 0) > longest:
        return None
    return (
        f"send a rotation or table longer than {longest} positions, where dynamic scaling begins,"
        f" such as positions 1 and {2 * longest}"
    )


def _table(call: RotaryCall, scale: float) -> Tensor:
    at = (scale * torch.tensor(POSITIONS, dtype=torch.float64)).expand(call.rope.num_axes, -1)
    return predict(replace(call, positions=at))


def _at_probes(positions: Tensor, right: Tensor) -> Tensor | None:
    """Return the positions that a call has at POSITIONS: float64 `[P]`.

    None if its positions are not the right ones, scaled and shifted.
    """
    probes = torch.tensor(POSITIONS, dtype=torch.float64)
    if positions.shape != right.shape:
        return None
    least, most = int(right.argmin()), int(right.argmax())
    low, high = float(right.flatten()[least]), float(right.flatten()[most])
    start, end = float(positions.flatten()[least]), float(positions.flatten()[most])
    scale = (end - start) / (high - low)
    offset = start - scale * low
    if not torch.allclose(positions, right * scale + offset, rtol=1e-9, atol=1e-9):
        return None
    return probes * scale + offset
