"""Types of the answers of `/v1/diagnose` and `/v1/compare`."""

from typing import Any, Literal

from rope_core.diagnosis.mistake import CODES
from service.v1.schemas import Answer, Schema


class NamedMistake(Schema):
    """A mistake that the evidence shows."""

    code: Literal[*CODES]  # type: ignore[valid-type]
    """Name of the mistake; docs/diagnose.md has a page of each."""
    parameters: dict[str, Any]
    """What the wrong code has, such as `theta`."""
    text: str
    """What the code does, and what is right."""


class Explanation(Schema):
    """One mistake, or two together, that reproduce the evidence."""

    mistakes: list[NamedMistake]
    """The mistakes, at most `max_mistakes`."""
    relative_error: float
    """|evidence - reproduced| / |reproduced|."""
    remedy: str
    """What to change."""
    rope: dict[str, Any] | None
    """A rope that reproduces the evidence; null if no rope does."""


class WorstElement(Schema):
    """The element that differs most."""

    index: list[int]
    """Index of the element in the evidence."""
    expected: float
    """What the element should be."""
    got: float
    """What the element is."""


class DiagnosisError(Schema):
    """How far the evidence is from what the rope gives."""

    relative: float | None
    """|got - expected| / |expected|; null if all expected numbers are 0, or one is no number."""
    max_abs: float | None
    """Largest difference of an element."""
    tolerance: float
    """Largest relative error that is not a difference."""
    first_position: float | None
    """Value in `positions` of the first token that differs."""
    worst: WorstElement | None
    """The element that differs most."""


class Measured(Schema):
    """What a rotation or a table says without the rope. null: the data do not decide it."""

    layout: str | None
    """Which elements of a head form a pair."""
    rotary_dim: int | None
    """Elements of a head that rotate."""
    slice_start: int | None
    """First element of a head that rotates."""
    direction: Literal[1, -1] | None
    """1, or -1 for negative angles."""
    gain: float | None
    """Factor of cosines and sines."""
    position_offset: float | None
    """Measured position minus given position."""
    position_scale: float | None
    """Measured position divided by given position."""
    theta: float | None
    """Base of the frequencies, if they are a geometric progression."""
    rope_type: str | None
    """The variant of the frequencies."""
    fit: float | None
    """Relative error of a rotation with the measured numbers."""
    unresolved_pairs: list[int]
    """Pairs whose angle the evidence does not decide."""


class DiagnoseAnswer(Answer):
    """Whether numbers are those of a rope, and which mistakes reproduce them if not."""

    verdict: Literal["agrees", "explained", "unexplained"]
    """agrees: the numbers are right within the tolerance."""
    error: DiagnosisError
    """How far the evidence is from what the rope gives."""
    explanations: list[Explanation]
    """Best first."""
    measured: Measured | None
    """What the evidence says without the rope; null for frequencies and attention."""
    next_probe: str | None
    """Which input would tell apart what this evidence cannot."""


class ParameterDifference(Schema):
    """A parameter that two ropes do not share."""

    parameter: str
    """Name of the parameter."""
    rope: Any
    """Value in `rope`."""
    other: Any
    """Value in `other`."""
    config_key: str | None
    """Key of the config that the value comes from; null for a default."""


class AngleDifference(Schema):
    """How far the angles of two ropes are apart at a position."""

    position: int
    """The position."""
    largest: float
    """Largest difference of an angle, in radians."""


class CompareAnswer(Answer):
    """What differs between two ropes."""

    differences: list[ParameterDifference]
    """The parameters that differ."""
    angles: list[AngleDifference]
    """At position 1, at the trained length and at the longest that the model allows."""
    first_position: int | None
    """Least position up to 2**24 at which a cosine differs by more than 0.001; null: none."""
    permutation: list[int] | None
    """If only the order of channels differs: p with rotate(x[..., p], other) =
    rotate(x, rope)[..., p]; null otherwise."""
    summary: str
    """One sentence, such as: same until position 8,192."""
    same: bool
    """Whether both ropes rotate every token alike."""
