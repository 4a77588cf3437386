"""Variants of NTK-aware scaling in models' own code; frequencies.py says what a variant is."""

import math

import torch
from torch import Tensor

from rope_core.checks import check_at_least, check_in_range
from rope_core.progression import geometric, ntk_scale


def dynamic_alpha(
    theta: float,
    dim: int,
    dtype: torch.dtype,
    *,
    original_max_position_embeddings: int,
    length: int = 0,
) -> tuple[Tensor, float]:
    """Dynamic NTK in steps: the base grows when the length passes the trained one, 2, 4, ... times.

    The base is theta * alpha ** (dim / (dim - 2)) with alpha = 2 ** (k + 1) - 1, where k is the
    least number with L <= original * 2 ** k.

    Source: Qwen's modeling_qwen.py, 2023 (`use_dynamic_ntk`).
    Models: Qwen-1, Qwen-VL.
    """
    original = original_max_position_embeddings
    check_at_least("original_max_position_embeddings", original, 1)
    check_at_least("length", length, 0)
    alpha = 2 ** (doublings(original, length) + 1) - 1
    return geometric(theta * ntk_scale("length", alpha, dim), dim, dtype), 1.0


def doublings(original: int, length: int) -> int:
    """Return how often `original` is doubled until it holds `length`."""
    return max(math.ceil(math.log2(max(length, 1) / original)), 0)


def ntk_mixed(
    theta: float,
    dim: int,
    dtype: torch.dtype,
    *,
    factor: float,
    mixed_b: float | None = None,
) -> tuple[Tensor, float]:
    """NTK scaling of every pair: pair i is divided by factor ** (2 (i + 1) / dim) at every length.

    With `mixed_b` the divisor is exp(ln(factor) ((i + 1) / (dim / 2)) ** mixed_b). Both divide the
    slowest pair by `factor`, and the fastest by more than 1.

    Source: Su, 2023, kexue.fm/archives/9706; the GTE models' modeling.py.
    Models: GTE v1.5 and multilingual (`"type": "ntk"`).
    """
    check_at_least("factor", factor, 1.0)
    check_in_range("mixed_b", mixed_b, 1e-6, 1e3)
    if mixed_b is None:
        return geometric(theta * factor, dim, dtype) / factor ** (2 / dim), 1.0
    step = torch.tensor(factor, dtype=dtype).log() / (dim / 2) ** mixed_b
    pairs = torch.arange(1, (dim + 1) // 2 + 1, dtype=dtype)
    return geometric(theta, dim, dtype) / (step * pairs**mixed_b).exp(), 1.0
