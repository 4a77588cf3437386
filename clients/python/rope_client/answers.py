"""Answers of calls. Arrays are read-only views of the answer's body.

Each answer has the `warnings` of the service.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
