"""Diagnose a rotation: compare, measure, then search what explains the difference."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor

from rope_core import ragged
from rope_core.angles import has_axes
from rope_core.calls import Rotate
from rope_core.calls.rope_checks import check_positions
from rope_core.checks import check_heads, dtype_of, shape_of
from rope_core.config import Arithmetic, RopeConfig
from rope_core.diagnosis.calls import Clues, RotaryCall
from rope_core.diagnosis.difference import (
    OTHER_ARITHMETIC,
    channel_energies,
    default_tolerance,
    difference,
    ratio,
)
from rope_core.diagnosis.explain import explain
from rope_core.diagnosis.probe import next_probe
from rope_core.diagnosis.ranking import Candidate, rank
from rope_core.diagnosis.result import Diagnosis
from rope_core.diagnosis.rotation.evidence import RotationEvidence
from rope_core.diagnosis.rotation.geometry import geometry
from rope_core.diagnosis.rotation.measured import measured_numbers
from rope_core.diagnosis.rotation.search import Search
from rope_core.diagnosis.sample import SLACK, squared_angles
from rope_core.errors import RopeError, ShapeError
from rope_core.hf import Resolved
from rope_core.rotary import run_rotate

VERIFIED = 6
"""Candidates that are compared with all tokens."""

OUTLIERS = 1.5
"""Factor of the rms of angles that are weighted by energy: a single pair has the error of its own
frequency, which others do not average out."""

NEARLY = 0.25
"""Energy of the difference, relative to the expected energy, up to which code may be right in
another way."""

COARSE = 0.1
"""Tolerance from which on hardly anything is a difference."""

FEW = 512
"""Tokens that decide how much energy each pair has."""


def diagnose_rotation(
    resolved: Resolved,
    clues: Clues,
    *,
    before: Tensor,
    after: Tensor,
    positions: Tensor | None,
    max_mistakes: int,
    tolerance: float | None,
) -> Diagnosis:
    """Say whether `after` is `before` rotated as `resolved` says, and what explains it if not.

    Args:
        resolved: the right rotation; one without rope returns `before`.
        clues: how to resolve other layers of the same model.
        before: `[B, S, H, D]` or `[T, H, D]`.
        after: as before.
        positions: as in `Rotate`.
        max_mistakes: 1 or 2.
        tolerance: None for that of the dtype.
    """
    _check(before, after, None if resolved.rope is None else resolved.rope.head_dim)
    right, expected = _right(resolved, clues, before, positions)
    warnings = [*resolved.warnings]
    if right.times and not bool(right.positions.any()):
        warnings.append("all positions are 0, where nothing rotates")
    got = after.flatten(0, -3)
    wrong_tokens, wrong_channels, right_tokens, right_channels = channel_energies(
        got, expected.flatten(0, -3)
    )
    energies = float(wrong_tokens.sum()), float(right_tokens.sum())
    if tolerance is None:
        tolerance = _tolerance(right, before, after.dtype, energies)
        if tolerance > COARSE:
            warnings.append(
                f"the tolerance is {tolerance:.2g}: at these positions float32 cannot tell angles"
                " apart"
            )
    if energies[0] > tolerance * tolerance * energies[1]:
        is_near = energies[0] < NEARLY * energies[1]
        for other, warning in _also_right(right, before, positions, is_near=is_near):
            of_other = channel_energies(got, other.flatten(0, -3))
            if float(of_other[0].sum()) <= tolerance * tolerance * float(of_other[2].sum()):
                warnings.append(warning)
                expected = other
                wrong_tokens, wrong_channels, right_tokens, right_channels = of_other
                energies = float(wrong_tokens.sum()), float(right_tokens.sum())
                break
    is_off = wrong_tokens > tolerance * tolerance * right_tokens
    first = int(is_off.nonzero()[0]) if bool(is_off.any()) else None
    error = difference(
        after,
        expected,
        tolerance,
        energies,
        None if first is None else float(right.positions[0, first]),
    )
    tensors = {"expected": expected}
    finite = error.max_abs is not None
    if finite:
        write = geometry(right).write
        by_pair = ratio(wrong_channels[write].sum(0), right_channels[write].sum(0))
        tensors["error_by_pair"] = by_pair
        tensors["error_by_position"] = ratio(wrong_tokens, right_tokens).view(after.shape[:-2])
    if right.times:
        tensors["inv_freq_expected"] = right.rope.inv_freq
    if not finite:
        warnings += _not_finite(before, after)
        return Diagnosis(
            verdict="unexplained", error=error, warnings=tuple(warnings), tensors=tensors
        )
    if error.relative is None and not energies[0]:
        warnings.append("all expected numbers are 0, and so are all numbers of 'after'")
    agrees = not energies[0] or (error.relative is not None and error.relative <= tolerance)
    evidence = RotationEvidence(
        before=before.flatten(0, -3),
        after=got,
        positions=right.positions,
        shape=right.shape,
        tolerance=tolerance,
        used=right_tokens > 0,
        also=tuple({int(wrong_tokens.argmax()), first or 0}),
    )
    search = Search(evidence=evidence, right=right, clues=clues, max_mistakes=max_mistakes)
    told = [] if agrees else _explanations(search)
    shown = told[0].call if told else right
    measured, inv_freq = measured_numbers(search, shown, is_known=agrees or bool(told))
    if inv_freq is not None:
        tensors["inv_freq"] = inv_freq
    return Diagnosis(
        verdict="agrees" if agrees else "explained" if told else "unexplained",
        error=error,
        explanations=explain(told, right),
        measured=measured,
        next_probe=next_probe(told, right, agrees=agrees),
        warnings=tuple(warnings),
        tensors=tensors,
    )


def _check(before: Tensor, after: Tensor, head_dim: int | None) -> None:
    check_heads("before", before, head_dim)
    check_heads("after", after)
    if after.shape != before.shape:
        raise ShapeError("after", f"of the shape of 'before', {shape_of(before)}", shape_of(after))
    if after.dtype != before.dtype:
        raise ShapeError("after", f"of the dtype of 'before', {dtype_of(before)}", dtype_of(after))
    if not before.numel():
        raise ShapeError("before", "of at least one token", shape_of(before))


def _right(
    resolved: Resolved, clues: Clues, before: Tensor, positions: Tensor | None
) -> tuple[RotaryCall, Tensor]:
    """Return the right call, and what it makes of `before`.

    Of a layer that does not rotate, the call has the rope of a layer that does, and 0 rotations.
    """
    rope = resolved.rope or _rope_of_other_layer(resolved, clues, before.shape[-1])
    check_positions("positions", positions, "before", before, rope)
    rotate = Rotate(before, None, rope, positions)
    rope = rotate.rope
    flat = ragged.token_positions(before, positions, None, has_axes(before, positions, rope))
    rows = before.shape[0] if before.ndim == 4 else 1
    call = RotaryCall(
        rope=rope,
        positions=flat.double().expand(rope.num_axes, -1),
        shape=(rows, flat.shape[-1] // rows, before.shape[-2]),
        times=0 if resolved.rope is None else 1,
    )
    if not call.times:
        return call, before
    expected = run_rotate(rotate).q
    assert expected is not None, "the call has q"
    return call, expected


def _also_right(
    right: RotaryCall, before: Tensor, positions: Tensor | None, *, is_near: bool
) -> Iterator[tuple[Tensor, str]]:
    """Return what right code may make of `before` in other ways, with a warning for each."""
    rope = right.rope
    if not right.times:
        return
    if rope.rope_type == "xpos":
        keys = run_rotate(Rotate(None, before, rope, positions)).k
        assert keys is not None, "the call has k"
        yield keys, "the rotation is that of keys: xPos divides them by its scale"
    if not is_near:
        return
    arithmetic: Arithmetic = "float64" if rope.arithmetic == "hf" else "hf"
    with suppress(RopeError):
        other = run_rotate(Rotate(before, None, replace(rope, arithmetic=arithmetic), positions)).q
        assert other is not None, "the call has q"
        yield other, OTHER_ARITHMETIC[arithmetic]


def _rope_of_other_layer(resolved: Resolved, clues: Clues, head_dim: int) -> RopeConfig:
    """Return the rope of a layer of the same model that rotates, or else the plain one."""
    layer = next((group.layers[0] for group in resolved.layers if group.nope is None), None)
    if clues.resolve is not None and layer is not None:
        with suppress(RopeError):
            rope = clues.resolve(layer=layer).rope
            if rope is not None and rope.head_dim == head_dim:
                return rope
    return RopeConfig(head_dim=head_dim, rotary_dim=head_dim - head_dim % 2)


def _tolerance(
    right: RotaryCall, before: Tensor, dtype: torch.dtype, energies: tuple[float, float]
) -> float:
    """Return the default tolerance.

    It follows the rms of the expected angles; of a layer that does not rotate, of those that its
    rope would have. If the evidence exceeds it, angles count as much as
    the energy that they rotate: an outlier in a fast pair has a larger error in float32.
    """
    squares, step = squared_angles(right)
    tolerance = default_tolerance(dtype, float(squares.mean().sqrt()))
    if dtype != torch.float32 or energies[0] <= tolerance * tolerance * energies[1]:
        return tolerance
    few = max(1, len(squares) // FEW)
    squares = squares[::few]
    x = before.flatten(0, -3)[:: step * few].double().square().sum(1)
    weights = x[:, geometry(right).cos_read].sum(1)
    total = float(weights.sum())
    weighted = float((squares * weights).sum()) / total if total else 0.0
    return max(tolerance, default_tolerance(dtype, OUTLIERS * weighted**0.5))


def _not_finite(before: Tensor, after: Tensor) -> list[str]:
    """Return a warning for each tensor with numbers that are not finite."""
    found = []
    for name, x in (("before", before), ("after", after)):
        if bool(x.isnan().all()):
            found.append(f"every number of {name!r} is NaN")
        elif not bool(x.isfinite().all()):
            found.append(f"{name!r} has numbers that are NaN or infinite")
    return found


def _explanations(search: Search) -> list[Candidate]:
    """Return the candidates to tell, compared with all tokens."""
    tolerance = search.evidence.tolerance
    found = rank(search.run(), SLACK * tolerance)
    return rank((_verified(candidate, search) for candidate in found[:VERIFIED]), tolerance)


def _verified(candidate: Candidate, search: Search) -> Candidate:
    """Return the candidate with its error of all tokens, in float32 or float64 arithmetic."""
    call, evidence = candidate.call, search.evidence
    error = evidence.error(call)
    if error > evidence.tolerance / 10:
        arithmetic: Arithmetic = "float64" if call.rope.arithmetic == "hf" else "hf"
        other = replace(call, rope=replace(call.rope, arithmetic=arithmetic))
        error = min(error, evidence.error(other))
    return replace(candidate, relative_error=error)
