"""Variants whose frequencies, or their divisors, are given pair by pair.

Each is named as its list. The list decides `rope_type` and `rotary_dim` where these are not given.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rope_core.checks import is_number
from rope_core.errors import ConfigError
from rope_core.progression import geometric

MAX_INV_FREQ = 1e18
"""Greatest frequency: float32 holds its product with any position."""

LISTS = ("inv_freq", "freq_factors")
"""Lists of one number for each pair. A rope has at most one of them."""


def inv_freq(
    theta: float,
    dim: int,
    dtype: torch.dtype,
    *,
    inv_freq: tuple[float, ...],
    attention_factor: float = 1.0,
) -> tuple[Tensor, float]:
    """Given frequencies: `inv_freq`, radians per position, one for each pair.

    A pair of frequency 0 does not rotate, and one of a negative frequency rotates the other way.
    `theta` is not read.

    Source: the buffer `inv_freq` of rotary modules in transformers.
    Models: any, with frequencies that were searched, changed or trained.
    """
    _check_count("inv_freq", inv_freq, dim)
    if not all(is_number(value, MAX_INV_FREQ) for value in inv_freq):
        raise ConfigError(
            "inv_freq", f"of numbers in [{-MAX_INV_FREQ:g}, {MAX_INV_FREQ:g}]", "others"
        )
    return torch.tensor(inv_freq, dtype=dtype), float(attention_factor)


def freq_factors(
    theta: float,
    dim: int,
    dtype: torch.dtype,
    *,
    freq_factors: tuple[float, ...],
    attention_factor: float = 1.0,
) -> tuple[Tensor, float]:
    """Given divisors: each pair's plain frequency is divided by its number in `freq_factors`.

    Source: ggml, `freq_factors` of `ggml_rope_ext`; the tensor `rope_freqs` of GGUF files.
    Models: GGUF files with `rope_freqs`, such as those of Llama 3.1 to 3.3.
    """
    _check_count("freq_factors", freq_factors, dim)
    if not all(value > 0 for value in freq_factors):
        raise ConfigError("freq_factors", "of positive numbers", "others")
    divisors = torch.tensor(freq_factors, dtype=dtype)
    return geometric(theta, dim, dtype) / divisors, float(attention_factor)


def implied_rope_type(names: Mapping[str, Any]) -> str:
    """Return the variant of a rope with parameters of these names and without a rope_type."""
    return next((name for name in LISTS if name in names), "default")


def listed_rotary_dim(parameters: Mapping[str, Any]) -> int | None:
    """Return twice the number of pairs that parameters list; None if they list none."""
    for name in LISTS:
        values: Any = parameters.get(name)
        values = values.tolist() if hasattr(values, "tolist") else values
        if isinstance(values, list | tuple) and values:
            return 2 * len(values)
    return None


def _check_count(name: str, values: Sequence[float], dim: int) -> None:
    pairs = (dim + 1) // 2
    if len(values) != pairs:
        raise ConfigError(name, f"a list of {pairs} numbers, one for each pair", len(values))
