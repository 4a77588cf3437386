"""The fields of calls and results: their tensors, their size, and copies with other tensors."""

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T", bound="TensorFields")


class TensorFields:
    """Base of calls and results, which are dataclasses with slots."""

    __slots__: tuple[str, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        total = 0  # a loop: a generator would be one call more for each tensor of a request
        for name in type(self).__slots__:
            field = getattr(self, name)
            total += field.nbytes if isinstance(field, Tensor) else 0
        return total


def field_names(value: TensorFields) -> tuple[str, ...]:
    """Return the names of the fields."""
    names: tuple[str, ...] = type(value).__slots__
    return names


def tensor_fields(value: TensorFields) -> dict[str, Tensor]:
    """Return the tensors by the names of their fields."""
    tensors: dict[str, Tensor] = {}
    for name in type(value).__slots__:
        field = getattr(value, name)
        if isinstance(field, Tensor):
            tensors[name] = field
    return tensors


def with_fields(value: T, fields: Mapping[str, Any]) -> T:
    """Return a copy with some fields replaced. Nothing is checked.

    For code that moves the tensors of a valid call, or joins those of several calls: checks read
    values, so they would wait until a GPU has finished all its work.
    """
    copy = object.__new__(type(value))
    for name in field_names(value):
        field = fields[name] if name in fields else getattr(value, name)
        object.__setattr__(copy, name, field)
    return copy
