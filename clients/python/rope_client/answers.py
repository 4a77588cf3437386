"""What a call is answered with. Arrays are read-only views of the answer's body.

Each has `warnings`: what the service thinks the caller should know.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Rotated:
    """The answer to `rotate`; what was not sent is None."""

    q: Array | None
    k: Array | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Attended:
    """The answer to `attention` and to `merge`."""

    out: Array
    """`[..., H, Dv]` in q's dtype, or in the `out_dtype` that was asked for."""

    lse: Array | None
    """float32 `[..., H]`, natural logarithm; None where it was not asked for."""

    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The answer to `cos_sin`: float32 `[..., rotary_dim / 2]`."""

    cos: Array
    sin: Array

    attention_scaling: float
    """The gain, which cos and sin include."""

    scale: Array | None = None
    """xPos alone: what q is multiplied by, and k divided by; not in cos and sin."""

    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Shifted:
    """The answer to `shift`."""

    k: Array
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Resolved:
    """The answer to `resolve`."""

    inv_freq: Array | None
    """Angular frequency of each angle, radians per position; None where the layer has no RoPE."""

    facts: Mapping[str, Any]
    """All else, by its names in docs/api.md: `rotates`, `parameters`, `provenance`, ..."""

    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """The answer to `positions`."""

    positions: Array | None
    """None where a builder makes several, which have names of their own."""

    tensors: Mapping[str, Array]
    """All that it made, by name: `positions`, `rope_delta`, `q_near`, ..."""

    warnings: tuple[str, ...] = ()
