"""How far the evidence is from what the rope gives."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from rope_core.diagnosis.result import Difference, WorstElement

PIECE_ELEMENTS = 2**18
"""Elements that are compared at a time."""

LARGEST = torch.finfo(torch.float32).max

TOLERANCES = {torch.bfloat16: 2e-2, torch.float16: 3e-3}
"""Default tolerances of half precision."""

OTHER_ARITHMETIC = {
    "float64": "angles are those of float64 arithmetic, which the rope's differs from",
    "hf": "angles are those of float32 arithmetic, which the rope's differs from",
}
"""Warnings about right numbers that have the other arithmetic than the rope."""


def default_tolerance(dtype: torch.dtype, rms_angle: float) -> float:
    """Return the relative error that is no difference, for rotations, tables and frequencies.

    Args:
        dtype: of the evidence.
        rms_angle: root mean square of the expected angles, in radians; 0 of frequencies.
    """
    return TOLERANCES.get(dtype, 2e-5 + 1e-7 * rms_angle)


def pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Return tensors `[T, ...]` in pieces of whole tokens."""
    elements = max(1, tensors[0][0].numel()) if len(tensors[0]) else 1
    step = max(1, PIECE_ELEMENTS // elements)
    return zip(*(torch.split(tensor, step) for tensor in tensors), strict=True)


def channel_energies(got: Tensor, expected: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return sums of squares of difference and expected numbers, of each token and each channel.

    Args:
        got: `[T, H, D]`.
        expected: as got.

    Returns:
        float64: of the difference `[T]` and `[D]`, of the expected numbers `[T]` and `[D]`.
    """
    by_token: list[tuple[Tensor, Tensor]] = []
    by_channel = torch.zeros((2, got.shape[-1]), dtype=torch.float64)
    for got_part, expected_part in pieces(got, expected):
        right = expected_part.double()
        wrong = (got_part.double() - right).square_()
        right = right.square()
        by_token.append((wrong.sum((1, 2)), right.sum((1, 2))))
        by_channel += torch.stack((wrong.sum((0, 1)), right.sum((0, 1))))
    wrong_tokens, right_tokens = (torch.cat(t) for t in zip(*by_token, strict=True))
    return wrong_tokens, by_channel[0], right_tokens, by_channel[1]


def ratio(wrong: Tensor, right: Tensor) -> Tensor:
    """Return float32 sqrt(wrong / right): 0 where both are 0, finite where only `right` is."""
    quotient = (wrong / right.clamp_min(1e-300)).sqrt().clamp_max(LARGEST)
    return torch.where(wrong == 0, 0, quotient).float()


def relative_error(wrong: float, right: float) -> float | None:
    """Return sqrt(wrong / right) of two energies; None if `right` is 0 or one is no number."""
    if not right > 0 or not math.isfinite(wrong) or not math.isfinite(right):
        return None
    return math.sqrt(wrong / right)


def worst_element(got: Tensor, expected: Tensor) -> tuple[float | None, WorstElement | None]:
    """Return the largest difference and where it is; None if a difference is no number."""
    flat_got, flat_expected = got.reshape(-1, 1), expected.reshape(-1, 1)
    largest, where, start = -1.0, 0, 0
    for got_part, expected_part in pieces(flat_got, flat_expected):
        value, row = (got_part.double() - expected_part.double()).abs().max(0)
        if not math.isfinite(float(value)):
            return None, None
        if float(value) > largest:
            largest, where = float(value), start + int(row)
        start += len(got_part)
    index: tuple[int, ...] = ()
    rest = where
    for size in reversed(got.shape):  # torch.unravel_index imports sympy, which takes 0.4 s
        rest, place = divmod(rest, size)
        index = (place, *index)
    got_value, expected_value = float(flat_got[where]), float(flat_expected[where])
    return largest, WorstElement(index=index, expected=expected_value, got=got_value)


def difference(
    got: Tensor,
    expected: Tensor,
    tolerance: float,
    energies: tuple[float, float],
    first_position: float | None,
) -> Difference:
    """Return the error of the evidence; numbers are None if one is no number."""
    max_abs, worst = worst_element(got, expected)
    relative = relative_error(*energies)
    if max_abs is None:
        relative = None
    return Difference(
        relative=relative,
        max_abs=max_abs,
        tolerance=tolerance,
        first_position=None if max_abs is None else first_position,
        worst=worst,
    )
