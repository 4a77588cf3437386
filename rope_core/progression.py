"""The geometric progression of frequencies, and factors of its base."""

import torch
from torch import Tensor

from rope_core.checks import check_at_least
from rope_core.errors import ConfigError


def geometric(theta: float | Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """Return theta ** (-2i / dim), `[ceil(dim / 2)]`."""
    return 1.0 / theta ** exponents(dim, dtype)


def exponents(dim: int, dtype: torch.dtype) -> Tensor:
    """Return 2i / dim, `[ceil(dim / 2)]`."""
    return torch.arange(0, dim, 2, dtype=dtype) / dim


def ntk_scale(name: str, factor: float, dim: int) -> float:
    """Return the factor of theta in NTK-aware scaling, `factor` ** (dim / (dim - 2))."""
    check_at_least(name, factor, 1e-6)
    return power_of(name, factor, ntk_power(name, dim))


def power_of(name: str, base: float, power: float) -> float:
    """Return `base` ** `power`.

    Raises:
        ConfigError: no float holds it; it names the parameter that `base` comes from.
    """
    try:
        raised: float = base**power
    except OverflowError:
        raise ConfigError(name, f"small enough to be raised to {power:.3g}", base) from None
    return raised


def ntk_power(name: str, dim: int) -> float:
    """Return dim / (dim - 2)."""
    if dim <= 2:
        expected = f"above 2 with {name}, whose exponent divides by it - 2"
        raise ConfigError("rotary_dim", expected, dim)
    return dim / (dim - 2)
