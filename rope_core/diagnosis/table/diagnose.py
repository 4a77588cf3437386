"""Diagnose a table of cosine and sine, and a row of frequencies."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rope_core.calls import CosSin
from rope_core.checks import dtype_of, shape_of
from rope_core.config import Arithmetic, RopeConfig
from rope_core.diagnosis.angles.naming import Naming
from rope_core.diagnosis.angles.slopes import measure, scaled_base
from rope_core.diagnosis.angles.work import Work
from rope_core.diagnosis.calls import Clues, RotaryCall
from rope_core.diagnosis.difference import (
    OTHER_ARITHMETIC,
    channel_energies,
    default_tolerance,
    difference,
    ratio,
)
from rope_core.diagnosis.explain import explain
from rope_core.diagnosis.probe import next_probe, next_probe_of_frequencies
from rope_core.diagnosis.ranking import Candidate, rank
from rope_core.diagnosis.result import Diagnosis, Measured
from rope_core.diagnosis.rotation.measured import from_angles
from rope_core.diagnosis.sample import SLACK, choose_tokens, squared_angles
from rope_core.diagnosis.table import evidence as table_evidence
from rope_core.diagnosis.table.evidence import TableEvidence
from rope_core.errors import ConfigError, ShapeError
from rope_core.hf import Resolved
from rope_core.rotary import cos_sin

VERIFIED = 8
"""Candidates that are compared with all tokens."""


def diagnose_table(
    resolved: Resolved,
    clues: Clues,
    *,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor | None,
    max_mistakes: int,
    tolerance: float | None,
) -> Diagnosis:
    """Say whether `cos` and `sin` are those of a rope, and what explains them if not.

    Args:
        resolved: the right rope.
        clues: how to resolve other layers of the same model.
        cos: `[..., n]` or `[..., 2n]`, with halves or neighbours repeated.
        sin: as cos.
        positions: as in `CosSin`; None counts from 0 along the second last dimension.
        max_mistakes: 1 or 2.
        tolerance: None for that of the dtype.

    Raises:
        ShapeError: shapes or dtypes do not fit each other.
        ConfigError: the layer does not rotate.
    """
    table_evidence.check(cos, sin)
    shape = cos.shape[:-1]
    if positions is None and bool((cos != cos.reshape(-1, cos.shape[-1])[0]).any()):
        shape = _without_ones(shape)
    right, expected = _right_table(_rope(resolved), shape, positions)
    pairs = expected.shape[-1]
    if tolerance is None:
        tolerance = default_tolerance(cos.dtype, float(squared_angles(right)[0].mean().sqrt()))
    flat = torch.stack((cos, sin), -2).reshape(-1, 2, cos.shape[-1])  # [T, 2, m]
    warnings = [*resolved.warnings]
    got = table_evidence.pair_columns(flat, expected, tolerance)
    if got.shape == expected.shape and not _is_within(got, expected, tolerance):
        arithmetic: Arithmetic = "float64" if right.rope.arithmetic == "hf" else "hf"
        other_rope = replace(_rope(resolved), arithmetic=arithmetic)
        _, other = _right_table(other_rope, shape, positions)
        if _is_within(got, other, tolerance):
            expected = other
            warnings.append(OTHER_ARITHMETIC[arithmetic])
    width = max(pairs, got.shape[-1])
    shown, wanted = table_evidence.padded(got, width), table_evidence.padded(expected, width)
    wrong_tokens, wrong_pairs, right_tokens, right_pairs = channel_energies(shown, wanted)
    energies = float(wrong_tokens.sum()), float(right_tokens.sum())
    is_off = (wrong_tokens > tolerance * tolerance * right_tokens).nonzero()
    first = float(right.positions[0, int(is_off[0])]) if len(is_off) else None
    error = difference(shown, wanted, tolerance, energies, first)
    tensors = {
        "expected": expected.transpose(0, 1).reshape(2, *cos.shape[:-1], pairs),
        "inv_freq_expected": right.rope.inv_freq,
    }
    if not bool(right.positions.any()):
        warnings.append("all positions are 0, where nothing rotates")
    if error.max_abs is None:
        warnings += not_finite(cos=cos, sin=sin)
        return Diagnosis(
            verdict="unexplained", error=error, warnings=tuple(warnings), tensors=tensors
        )
    tensors["error_by_pair"] = ratio(wrong_pairs, right_pairs)
    tensors["error_by_position"] = ratio(wrong_tokens, right_tokens).view(cos.shape[:-1])
    agrees = (
        got.shape[-1] == pairs
        and (error.relative or 0) <= tolerance
        and not (error.relative is None and energies[0])
    )
    evidence = TableEvidence(got=got, tolerance=tolerance)
    rows, count, _ = right.shape
    used = torch.ones(rows * count, dtype=torch.bool)
    index = choose_tokens(right.positions, rows, used, int(wrong_tokens.argmax()))
    sample = evidence.angle_table(right.positions, index)
    found = measure(sample, right)
    known = replace(found, resolved=resolved, resolve=clues.resolve, rotary_dim=2 * got.shape[-1])
    told: list[Candidate] = []
    if not agrees:
        naming = Naming.of_angles(sample, right, known, "table", Work())
        told = rank(_verified(naming.candidates(max_mistakes), evidence), tolerance)
    shown_rope = told[0].call.rope if told else right.rope
    measured, inv_freq = from_angles(
        sample,
        found,
        rope_type=shown_rope.rope_type if agrees or told else None,
        rotary_dim=2 * got.shape[-1],
    )
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


def diagnose_frequencies(
    resolved: Resolved,
    clues: Clues,
    *,
    inv_freq: Tensor,
    max_mistakes: int,
    tolerance: float | None,
) -> Diagnosis:
    """Say whether `inv_freq` `[n]` is that of a rope, and what explains it if not.

    Arguments and errors are those of `diagnose_table`. Of a rope that depends on the length, the
    frequencies are those of its fixed length, or of a short call.
    """
    if not inv_freq.dtype.is_floating_point:
        raise ShapeError("inv_freq", "of floating-point numbers", dtype_of(inv_freq))
    if inv_freq.ndim != 1 or not inv_freq.numel():
        raise ShapeError("inv_freq", "[n] with at least one number", shape_of(inv_freq))
    rope = _rope(resolved).for_length(0)
    if tolerance is None:
        tolerance = default_tolerance(inv_freq.dtype, 0.0)
    one = torch.ones((rope.num_axes, 1), dtype=torch.float64)
    right = RotaryCall(rope=rope, positions=one, shape=(1, 1, 1))
    expected = rope.inv_freq.float()
    width = max(len(expected), len(inv_freq))
    shown, wanted = (_with_zeros(row, width) for row in (inv_freq, expected))
    wrong, right_energy = (shown.double() - wanted).square(), wanted.double().square()
    energies = float(wrong.sum()), float(right_energy.sum())
    error = difference(shown, wanted, tolerance, energies, None)
    tensors = {"expected": expected, "inv_freq_expected": expected.clone()}
    warnings = [*resolved.warnings]
    if error.max_abs is None:
        warnings += not_finite(inv_freq=inv_freq)
        return Diagnosis(
            verdict="unexplained", error=error, warnings=tuple(warnings), tensors=tensors
        )
    tensors["error_by_pair"] = ratio(wrong, right_energy)
    tensors["inv_freq"] = inv_freq.float()
    is_same = error.relative is not None and error.relative <= tolerance
    agrees = len(inv_freq) == len(expected) and (is_same or not energies[0])
    told: list[Candidate] = []
    if not agrees:
        known = replace(clues, rotary_dim=2 * len(inv_freq))
        naming = Naming.of_frequencies(inv_freq.double(), right, known, tolerance)
        told = rank(naming.candidates(max_mistakes), tolerance)
    theta = scaled_base(inv_freq.double())
    rope_type = None if theta is None else "default"
    if told or agrees:
        rope_type = told[0].call.rope.rope_type if told else rope.rope_type
    measured = Measured(theta=theta, rope_type=rope_type)
    return Diagnosis(
        verdict="agrees" if agrees else "explained" if told else "unexplained",
        error=error,
        explanations=explain(told, right),
        measured=measured,
        next_probe=next_probe_of_frequencies(told),
        warnings=tuple(warnings),
        tensors=tensors,
    )


def not_finite(**tensors: Tensor) -> list[str]:
    """Return a warning for each tensor with numbers that are not finite."""
    found = []
    for name, x in tensors.items():
        if bool(x.isnan().all()):
            found.append(f"every number of {name!r} is NaN")
        elif not bool(x.isfinite().all()):
            found.append(f"{name!r} has numbers that are NaN or infinite")
    return found


def _rope(resolved: Resolved) -> RopeConfig:
    if resolved.rope is None:
        got = f"one that does not: {resolved.nope}"
        raise ConfigError("rope", "that of a layer that rotates", got)
    return resolved.rope


def _right_table(
    rope: RopeConfig, shape: torch.Size, positions: Tensor | None
) -> tuple[RotaryCall, Tensor]:
    """Return the right call, and its table, float32 `[T, 2, n]`.

    Positions may lack the sizes 1 that `shape` ends with.

    Args:
        rope: the right rope.
        shape: of the tokens, `[...]` or `[B, ..., S]`.
        positions: `[...]`, or `[S]` for each row, with the axes first; None counts in each row.
    """
    counted = torch.arange(shape[-1] if shape else 1).view(shape[-1:])
    given = counted if positions is None else positions
    call, given_shape = CosSin(given, rope), shape
    if call.shape not in (shape, shape[-1:]):
        shape = _without_ones(shape)
    if call.shape not in (shape, shape[-1:]):
        expected = f"of shape {shape_of(torch.empty(given_shape))}, as the rows of 'cos'"
        raise ShapeError("positions", expected, shape_of(torch.empty(call.shape)))
    count = shape[-1] if shape else 1
    rows = shape.numel() // count
    axes = call.rope.num_axes
    flat = given.double().reshape(axes, -1) if call.has_axes else given.double().reshape(1, -1)
    table = cos_sin(call)
    expected_table = torch.stack((table.cos, table.sin), -2).reshape(-1, 2, table.cos.shape[-1])
    if call.shape != shape:
        flat, expected_table = flat.repeat(1, rows), expected_table.repeat(rows, 1, 1)
    right = RotaryCall(rope=call.rope, positions=flat.expand(axes, -1), shape=(rows, count, 1))
    return right, expected_table


def _without_ones(shape: torch.Size) -> torch.Size:
    """Return the shape of tokens without the sizes 1 after them, such as that of heads."""
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _is_within(got: Tensor, expected: Tensor, tolerance: float) -> bool:
    wrong, _, right, _ = channel_energies(got, expected)
    return float(wrong.sum()) <= tolerance * tolerance * float(right.sum())


def _verified(candidates: Sequence[Candidate], evidence: TableEvidence) -> Iterator[Candidate]:
    """Return the best candidates with their errors of all tokens.

    Of calls with the same mistakes, which differ in roundings, the first that gives the table.
    """
    for best in rank(candidates, SLACK * evidence.tolerance)[:VERIFIED]:
        same = [one for one in candidates if dict(one.mistakes) == dict(best.mistakes)]
        for one in sorted(same, key=lambda one: one.relative_error):
            error = evidence.error(one.call)
            if error <= evidence.tolerance:
                yield replace(one, mistakes=best.mistakes, relative_error=error)
                break


def _with_zeros(row: Tensor, width: int) -> Tensor:
    return torch.cat((row, row.new_zeros(width - len(row))))
