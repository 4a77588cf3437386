"""What a variant does to the frequencies of each pair: keep, blend or divide them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from rope_core.config import RopeConfig

TOLERANCE = 1e-6
"""Relative difference of divisors that are the same: lists of divisors can be float32."""

UNSCALED = ("default", "inv_freq", "xpos")
"""Variants that leave the frequencies as they are."""


Band = Literal["kept", "blended", "divided"]
"""What a variant does to the frequency of a pair."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """How many pairs a variant keeps, blends and divides. Pairs that do not turn are in none."""

    kept: int
    blended: int
    """Pairs that are divided by another number than `factor`."""

    divided: int
    factor: float
    """Divisor of the slow pairs; 1 if no pair is divided."""


@lru_cache(maxsize=256)
def unscaled(rope: RopeConfig) -> RopeConfig:
    """Return the rope without its scaling: the plain frequencies of its base."""
    if rope.axes == "axial_ntk":
        axes_dim = (("axes_dim", dict(rope.axes_parameters)["axes_dim"]),)
        rope = replace(rope, axes="axial", axes_parameters=axes_dim)
    if rope.axes == "interpolated":
        rope = replace(rope, axes=None, axes_parameters=())
    if rope.rope_type in UNSCALED:
        return rope
    if rope.rope_type == "proportional":
        kept = tuple(item for item in rope.parameters if item[0] != "factor")
        return replace(rope, parameters=kept)
    return replace(rope, rope_type="default", parameters=())


@lru_cache(maxsize=256)
def exact_frequencies(rope: RopeConfig) -> Tensor:
    """Return the angle of each pair at position 1, float64 `[P]`, without rounding to float32.

    A negative one turns the other way. Do not change the tensor: it is cached.
    """
    rope = replace(rope, arithmetic="float64")
    table = rope.frequency_table
    if table.coupled:  # the other axis multiplies all angles alike
        angles = table.inv_freq
    else:
        angles = table.angles(torch.ones(table.num_axes, 1, dtype=torch.float64), table)[0]
    return angles[: rope.half] * (-1 if rope.negative else 1)


@lru_cache(maxsize=256)
def divisors(rope: RopeConfig) -> Tensor:
    """Return what the plain frequency of each pair is divided by, float64 `[P]`.

    NaN for a pair that does not turn. Do not change the tensor: it is cached.
    """
    frequencies = exact_frequencies(rope)
    quotients = exact_frequencies(unscaled(rope)) / frequencies
    return quotients.masked_fill(frequencies == 0, math.nan)


@lru_cache(maxsize=256)
def scaling(rope: RopeConfig) -> Scaling:
    """Return how many pairs the variant keeps, blends and divides.

    A rope whose frequencies depend on the length of a call counts for a call of length 0.
    """
    kept, blended, divided = map(pair_bands(rope).count, ("kept", "blended", "divided"))
    return Scaling(kept, blended, divided, _factor(rope))


@lru_cache(maxsize=256)
def pair_bands(rope: RopeConfig) -> Sequence[Band | None]:
    """Return what the variant does to each pair; None for a pair that does not turn."""
    factor = _factor(rope)
    return tuple(None if math.isnan(n) else _band(n, factor) for n in divisors(rope).tolist())


def _band(divisor: float, factor: float) -> Band:
    if abs(divisor - 1) <= TOLERANCE:
        return "kept"
    return "divided" if abs(divisor - factor) <= TOLERANCE * factor else "blended"


def _factor(rope: RopeConfig) -> float:
    """Return the variant's factor, or the divisor that is farthest from 1."""
    parameters = dict(rope.parameters)
    if rope.rope_type in ("yarn", "llama3"):  # whose factor no pair may reach
        factor = parameters.get("factor")
        if isinstance(factor, int | float):
            return float(factor)
        longest, original = (
            parameters[name]
            for name in ("max_position_embeddings", "original_max_position_embeddings")
        )
        assert isinstance(longest, int)
        assert isinstance(original, int)
        return longest / original
    turning = divisors(rope)
    turning = turning[~turning.isnan()]
    if not len(turning):
        return 1.0
    farthest = float(turning[turning.log().abs().argmax()])
    return 1.0 if math.isclose(farthest, 1.0, rel_tol=TOLERANCE) else float(f"{farthest:.9g}")
