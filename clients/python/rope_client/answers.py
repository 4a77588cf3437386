"""What a call is answered with. Arrays are read-only views of the answer's body."""

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Rotated:
    """The answer to `rotate`; what was not sent is None."""

    q: Array | None
    k: Array | None


@dataclass(frozen=True, slots=True, eq=False)
class Attended:
    """The answer to `attention` and to `merge`."""

    out: Array
    """`[..., H, Dv]` in q's dtype."""

    lse: Array | None
    """float32 `[..., H]`, natural logarithm; None where it was not asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The answer to `cos_sin`: float32 `[..., rotary_dim / 2]`."""

    cos: Array
    sin: Array
    attention_scaling: float


@dataclass(frozen=True, slots=True, eq=False)
class Shifted:
    """The answer to `shift`."""

    k: Array
