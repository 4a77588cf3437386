"""Compare two ropes: which parameters differ, and from which position on that can be seen."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from rope_core.sources import RopeSource


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterDifference:
    """A parameter that two ropes do not share."""

    parameter: str
    rope: Any
    other: Any
    config_key: str | None
    """The key, or the formula, of a config that the value comes from; None if it has a default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AngleDifference:
    """How far the angles of two ropes are apart at a position."""

    position: int
    largest: float
    """In radians, over the pairs that both ropes have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What differs between two ropes."""

    differences: tuple[ParameterDifference, ...]
    angles: tuple[AngleDifference, ...]
    first_position: int | None
    """The least position up to 2^24 at which a cosine differs by more than 1e-3; None: none."""

    summary: str
    same: bool
    """Whether both ropes rotate every token alike."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """`inv_freq` and `inv_freq_other`; without one for a layer that does not rotate."""


def compare(rope: RopeSource | None, other: RopeSource | None) -> Comparison:
    """Say where two ropes differ. None is a rope that does not rotate.

    Raises:
        ConfigError: one of the two is no rope.
    """
    raise NotImplementedError
