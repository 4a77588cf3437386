"""What `diagnose` returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

Verdict = Literal["agrees", "explained", "unexplained"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedMistake:
    """A mistake that the evidence shows, with the numbers of the code that made it."""

    code: str
    """A name of `MISTAKES`."""

    parameters: Mapping[str, Any]
    """What the wrong code has, such as `{"theta": 10000.0}`."""

    text: str
    """One sentence: what the code does, and what is right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One mistake, or two together, that reproduce the evidence."""

    mistakes: tuple[NamedMistake, ...]
    relative_error: float
    """|evidence - reproduced| / |reproduced|."""

    remedy: str
    rope: Mapping[str, Any] | None
    """Parameters of a rope that reproduces the evidence; None if no rope does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstElement:
    """The element that differs most."""

    index: tuple[int, ...]
    expected: float
    got: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How far the evidence is from what the rope gives."""

    relative: float | None
    """|got - expected| / |expected|; None if the expected numbers are all 0 or one is no number."""

    max_abs: float | None
    tolerance: float
    """Largest relative error that is not a difference."""

    first_position: float | None
    """Value in `positions` of the first token that differs."""

    worst: WorstElement | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a rotation or a table says without the rope. None: the data do not decide it."""

    layout: str | None = None
    rotary_dim: int | None = None
    slice_start: int | None = None
    """First channel that rotates."""

    direction: int | None = None
    """1, or -1 for negative angles."""

    gain: float | None = None
    position_offset: float | None = None
    """Measured position - given position."""

    position_scale: float | None = None
    theta: float | None = None
    """Base of the frequencies, if they are a geometric progression."""

    rope_type: str | None = None
    fit: float | None = None
    """Relative error of a rotation with the measured numbers."""

    unresolved_pairs: tuple[int, ...] = ()
    """Pairs whose angle the evidence does not decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Whether numbers are those of a rope, and which mistakes reproduce them if not."""

    verdict: Verdict
    error: Difference
    explanations: tuple[Explanation, ...] = ()
    """Best first."""

    measured: Measured | None = None
    """Of rotations and tables."""

    next_probe: str | None = None
    """Which input tells explanations apart that this evidence cannot tell apart."""

    warnings: tuple[str, ...] = ()

    tensors: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """`expected`, `error_by_pair`, `error_by_position`, `inv_freq` (measured) and
    `inv_freq_expected`, as far as the evidence has them."""
