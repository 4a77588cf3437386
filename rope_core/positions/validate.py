"""What arguments of position builders must be, each with an error that names the argument."""

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from rope_core.checks import INTEGERS, dtype_of, shape_of
from rope_core.errors import ConfigError, ShapeError

T = TypeVar("T")

MAX_POSITIONS = 2**24
"""Most numbers, axes counted, that one call makes; float32 counts whole ones as far."""

FARTHEST = 2**53
"""Bound of whole arguments, so that sums of a few stay far inside int64."""


def whole(name: str, value: int, least: int = 0, most: int = FARTHEST) -> int:
    """Return `value`, an integer in [`least`, `most`]."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ConfigError(name, f"an integer from {least} to {most}", _brief(value))
    return value


def real(name: str, value: float, least: float = -1e15, most: float = 1e15) -> float:
    """Return `value`, a finite number in [`least`, `most`]."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not least <= value <= most:
        raise ConfigError(name, f"a number from {least:g} to {most:g}", _brief(value))
    return value


def positive(name: str, value: float) -> float:
    """Return `value`, a number above 0 that may divide."""
    return real(name, value, 1e-15)


def wholes(
    name: str, values: Sequence[int], length: int, least: int = 0, most: int = FARTHEST
) -> tuple[int, ...]:
    """Return `length` integers in [`least`, `most`]."""
    return tuple(whole(name, value, least, most) for value in _items(name, values, length))


def reals(name: str, values: Sequence[float], length: int) -> tuple[float, ...]:
    """Return `length` finite numbers."""
    return tuple(real(name, value) for value in _items(name, values, length))


def sizes(
    name: str, values: Sequence[int], length: int, axes: int | None = None
) -> tuple[int, ...]:
    """Return the sizes of a grid, whose positions on `axes` (its own by default) are few enough."""
    grid = wholes(name, values, length, 1, MAX_POSITIONS)
    few(name, math.prod(grid) * (axes or length))
    return grid


def few(name: str, count: int) -> int:
    """Return `count`, the numbers that `name` asks for, which one call may make."""
    if count > MAX_POSITIONS:
        raise ConfigError(name, f"of at most {MAX_POSITIONS} positions, axes counted", count)
    return count


def flag(name: str, value: bool) -> bool:
    """Return `value`, true or false."""
    if not isinstance(value, bool):
        raise ConfigError(name, "true or false", _brief(value))
    return value


def one_of(name: str, value: str, names: Sequence[str]) -> str:
    """Return `value`, one of `names`."""
    if not isinstance(value, str) or value not in names:
        raise ConfigError(name, "one of " + ", ".join(names), _brief(value))
    return value


def integers(name: str, tensor: Tensor, shapes: str, ndim: Sequence[int]) -> Tensor:
    """Return `tensor` as int64 on the CPU; it must have one of `ndim`, `shapes` in words."""
    if not isinstance(tensor, Tensor) or tensor.dtype not in INTEGERS:
        raise ShapeError(name, "a tensor of int64 or int32", _kind(tensor))
    shaped(name, tensor, shapes, ndim)
    low, high = tensor.aminmax()
    if not -FARTHEST <= int(low) <= int(high) <= FARTHEST:
        raise ShapeError(name, f"of numbers from -{FARTHEST} to {FARTHEST}", "others")
    return tensor.long().cpu()


def fractions(name: str, tensor: Tensor, shapes: str, ndim: Sequence[int]) -> Tensor:
    """Return `tensor` on the CPU, finite float32 or float64; of integers it is float32."""
    if isinstance(tensor, Tensor) and tensor.dtype in INTEGERS:
        tensor = tensor.float()
    if not isinstance(tensor, Tensor) or tensor.dtype not in (torch.float32, torch.float64):
        raise ShapeError(name, "a tensor of float32 or float64", _kind(tensor))
    shaped(name, tensor, shapes, ndim)
    if not bool((tensor.abs() <= 1e15).all()):  # false for NaN
        raise ShapeError(name, "of numbers between -1e15 and 1e15", "others, or NaN")
    return tensor.cpu()


def shaped(name: str, tensor: Tensor, shapes: str, ndim: Sequence[int]) -> None:
    """Check that a tensor has dimensions, and elements, that it may have."""
    if tensor.ndim not in ndim or not tensor.numel() or tensor.numel() > MAX_POSITIONS:
        raise ShapeError(name, f"{shapes} of 1 to {MAX_POSITIONS} elements", shape_of(tensor))


def _items(name: str, values: Sequence[T], length: int) -> Sequence[T]:
    if not isinstance(values, list | tuple) or len(values) != length:
        raise ConfigError(name, f"a list of {length} numbers", _brief(values))
    return values


def _kind(value: object) -> str:
    return dtype_of(value) if isinstance(value, Tensor) else type(value).__name__


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
