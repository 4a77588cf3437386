"""Answers of calls. Arrays are read-only views of the answer's body.

Each answer has the `warnings` of the service.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Rotated:
    """The answer to `rotate`; a tensor that was not sent is None."""

    q: Array | None
    k: Array | None
    warnings: tuple[str, ...] = ()

    length: int | None = None
    """The length that decided the frequencies; None if they do not depend on one."""

    length_source: str | None = None
    """What decided the length, in words."""


@dataclass(frozen=True, slots=True, eq=False)
class Attended:
    """The answer to `attention` and to `merge`."""

    out: Array
    """`[..., H, Dv]` in q's dtype, or in the `out_dtype` of the call."""

    lse: Array | None
    """float32 `[..., H]`, natural logarithm; None if it was not requested."""

    warnings: tuple[str, ...] = ()

    length: int | None = None
    """The length that decided the frequencies; None if they do not depend on one."""

    length_source: str | None = None
    """What decided the length, in words."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The answer to `cos_sin`: float32 `[..., rotary_dim / 2]`."""

    cos: Array
    sin: Array

    attention_scaling: float
    """Factor of cos and sin, already applied."""

    scale: Array | None = None
    """xPos only: factor of q and divisor of k; not in cos and sin."""

    warnings: tuple[str, ...] = ()

    length: int | None = None
    """The length that decided the frequencies; None if they do not depend on one."""

    length_source: str | None = None
    """What decided the length, in words."""


@dataclass(frozen=True, slots=True, eq=False)
class Shifted:
    """The answer to `shift`."""

    k: Array
    warnings: tuple[str, ...] = ()

    length: int | None = None
    """The length that decided the frequencies; None if they do not depend on one."""

    length_source: str | None = None
    """What decided the length, in words."""

    to_length: int | None = None
    """As `length`, of the rope `to`."""

    to_length_source: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Resolved:
    """The answer to `resolve`."""

    inv_freq: Array | None
    """Angular frequency of each angle, radians per position; None if the layer has no RoPE."""

    facts: Mapping[str, Any]
    """All other members, with the names of docs/api.md: `rotates`, `parameters`,
    `position_keys_not_applied`, ..."""

    warnings: tuple[str, ...] = ()

    inv_freq_unscaled: Array | None = None
    """`inv_freq` without the scaling of the variant."""

    pairs: Array | None = None
    """The two channels of a head in each pair, `[P, 2]`, in the order of `inv_freq`."""

    pair_axis: Array | None = None
    """The axis of a position that turns each pair, `[P]`; -1 where several do."""


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """The answer to `positions`."""

    positions: Array | None
    """None if the builder makes several tensors with other names."""

    tensors: Mapping[str, Array]
    """All tensors of the builder, by name: `positions`, `rope_delta`, `q_near`, ..."""

    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedMistake:
    """A mistake that the evidence shows."""

    code: str
    """Name of the mistake; docs/diagnose.md has a page of each."""

    parameters: Mapping[str, Any]
    """What the wrong code has, such as `{"theta": 10000.0}`."""

    text: str
    """What the code does, and what is right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One mistake, or two together, that reproduce the evidence."""

    mistakes: tuple[NamedMistake, ...]
    relative_error: float
    """|evidence - reproduced| / |reproduced|."""

    remedy: str
    """What to change."""

    rope: Mapping[str, Any] | None
    """A rope that reproduces the evidence; None if no rope does."""


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
    """|got - expected| / |expected|; None if all expected numbers are 0, or one is no number."""

    max_abs: float | None
    tolerance: float
    """Largest relative error that is not a difference."""

    first_position: float | None
    """Value in `positions` of the first token that differs."""

    worst: WorstElement | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a rotation or a table says without the rope. None: the data do not decide it."""

    layout: str | None
    rotary_dim: int | None
    slice_start: int | None
    """First element of a head that rotates."""

    direction: int | None
    """1, or -1 for negative angles."""

    gain: float | None
    position_offset: float | None
    """Measured position minus given position."""

    position_scale: float | None
    theta: float | None
    """Base of the frequencies, if they are a geometric progression."""

    rope_type: str | None
    fit: float | None
    """Relative error of a rotation with the measured numbers."""

    unresolved_pairs: tuple[int, ...]
    """Pairs whose angle the evidence does not decide."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Diagnosis:
    """The answer to `diagnose`."""

    verdict: Literal["agrees", "explained", "unexplained"]
    error: Difference
    explanations: tuple[Explanation, ...]
    """Best first."""

    measured: Measured | None
    """Of rotations and tables."""

    next_probe: str | None
    """Which input would tell apart what this evidence cannot."""

    expected: Array | None
    """What the evidence should be."""

    error_by_pair: Array | None
    error_by_position: Array | None
    inv_freq: Array | None
    """The frequencies that the evidence shows."""

    inv_freq_expected: Array | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterDifference:
    """A parameter that two ropes do not share."""

    parameter: str
    rope: Any
    other: Any
    config_key: str | None
    """Key of the config that the value comes from; None for a default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AngleDifference:
    """How far the angles of two ropes are apart at a position."""

    position: int
    largest: float
    """In radians."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """The answer to `compare`."""

    summary: str
    """One sentence."""

    same: bool
    """Whether both ropes rotate every token alike."""

    differences: tuple[ParameterDifference, ...]
    angles: tuple[AngleDifference, ...]
    first_position: int | None
    """Least position up to 2**24 at which a cosine differs by more than 0.001; None: none."""

    permutation: tuple[int, ...] | None
    """If only the order of channels differs: p with rotate(x[..., p], other) =
    rotate(x, rope)[..., p]."""

    inv_freq: Array | None
    inv_freq_other: Array | None
    warnings: tuple[str, ...] = ()
