"""Checks of the arguments of position builders. Each error names the argument."""

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from rope_core.checks import INTEGERS, dtype_of, is_number, shape_of
from rope_core.errors import ConfigError, ShapeError, brief

T = TypeVar("T")

MAX_POSITIONS = 2**24
"""Largest number of positions of one call, counted on every axis. float32 is exact up to here."""

MAX_INT = 2**53
"""Bound of integers, so that small sums of them fit into int64."""


def integer(name: str, value: int, least: int = 0, most: int = MAX_INT) -> int:
    """Return `value`, an integer in [`least`, `most`]."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ConfigError(name, f"an integer from {least} to {most}", brief(value))
    return value


def number(name: str, value: float, least: float = -1e15, most: float = 1e15) -> float:
    """Return `value`, a finite number in [`least`, `most`]."""
    if not is_number(value) or not least <= value <= most:
        raise ConfigError(name, f"a number from {least:g} to {most:g}", brief(value))
    return value


def positive(name: str, value: float) -> float:
    """Return `value`, a number above 0 that can divide."""
    return number(name, value, 1e-15)


def integers(
    name: str, values: Sequence[int], length: int, least: int = 0, most: int = MAX_INT
) -> tuple[int, ...]:
    """Return `length` integers in [`least`, `most`]."""
    return tuple(integer(name, value, least, most) for value in _check_list(name, values, length))


def numbers(name: str, values: Sequence[float], length: int) -> tuple[float, ...]:
    """Return `length` finite numbers."""
    return tuple(number(name, value) for value in _check_list(name, values, length))


def sizes(
    values: Sequence[int], length: int, num_axes: int | None = None, name: str = "sizes"
) -> tuple[int, ...]:
    """Return the sizes of a grid of `length` axes, with not too many positions on `num_axes`."""
    grid = integers(name, values, length, 1, MAX_POSITIONS)
    count(name, math.prod(grid) * (num_axes or length))
    return grid


def any_sizes(values: Sequence[int]) -> tuple[int, ...]:
    """Return the sizes of a grid of 1 to 4 axes."""
    if not isinstance(values, list | tuple) or not 1 <= len(values) <= 4:
        raise ConfigError("sizes", "a list of 1 to 4 numbers", values)
    return sizes(values, len(values))


def count(name: str, count: int) -> int:
    """Return `count`, the number of positions that the argument `name` leads to."""
    if count > MAX_POSITIONS:
        raise ConfigError(name, f"of at most {MAX_POSITIONS} positions, axes counted", count)
    return count


def boolean(name: str, value: bool) -> bool:
    """Return `value`, true or false."""
    if not isinstance(value, bool):
        raise ConfigError(name, "true or false", brief(value))
    return value


def int_tensor(name: str, tensor: Tensor, shapes: str, *ndim: int) -> Tensor:
    """Return `tensor` as int64 on the CPU. It has one of `ndim` dimensions, `shapes` in words."""
    if not isinstance(tensor, Tensor) or tensor.dtype not in INTEGERS:
        raise ShapeError(name, "a tensor of int64 or int32", _kind(tensor))
    _check_shape(name, tensor, shapes, ndim)
    low, high = tensor.aminmax()
    if not -MAX_INT <= int(low) <= int(high) <= MAX_INT:
        raise ShapeError(name, f"of numbers from -{MAX_INT} to {MAX_INT}", "others")
    return tensor.long().cpu()


def float_tensor(name: str, tensor: Tensor, shapes: str, *ndim: int) -> Tensor:
    """Return `tensor` as finite float32 or float64 on the CPU. Integers become float32."""
    if isinstance(tensor, Tensor) and tensor.dtype in INTEGERS:
        tensor = tensor.float()
    if not isinstance(tensor, Tensor) or tensor.dtype not in (torch.float32, torch.float64):
        raise ShapeError(name, "a tensor of float32 or float64", _kind(tensor))
    _check_shape(name, tensor, shapes, ndim)
    if not bool((tensor.abs() <= 1e15).all()):  # false for NaN
        raise ShapeError(name, "between -1e15 and 1e15", "other numbers, or NaN")
    return tensor.cpu()


def _check_shape(name: str, tensor: Tensor, shapes: str, ndim: Sequence[int]) -> None:
    if tensor.ndim not in ndim or not tensor.numel() or tensor.numel() > MAX_POSITIONS:
        raise ShapeError(name, f"{shapes} of 1 to {MAX_POSITIONS} elements", shape_of(tensor))


def _check_list(name: str, values: Sequence[T], length: int) -> Sequence[T]:
    if not isinstance(values, list | tuple) or len(values) != length:
        raise ConfigError(name, f"a list of {length} numbers", brief(values))
    return values


def _kind(value: object) -> str:
    return dtype_of(value) if isinstance(value, Tensor) else type(value).__name__
