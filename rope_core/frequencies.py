"""The variants of RoPE: one function each, from parameters to angular frequencies."""

import torch
from torch import Tensor

from rope_core.config import RopeConfig


def inv_freq(rope: RopeConfig) -> Tensor:
    """Return the angular step of each pair, in radians per position: float64 `[rotary_dim / 2]`.

    theta ** (-2i / rotary_dim) for pair i (RoFormer, Su et al., 2021, section 3.2.2).
    """
    exponent = torch.arange(0, rope.rotary_dim, 2, dtype=torch.float64) / rope.rotary_dim
    return rope.theta**-exponent
