"""Calls and answers whose tensors lie elsewhere, or are joined from those of others."""

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor

from rope_core.calls.attention import Attend, Attended, Merge
from rope_core.calls.rotation import CosSin, Rotate, Rotated, Shift, Table

T = TypeVar("T", bound=Rotate | Attend | CosSin | Shift | Merge | Rotated | Attended | Table)


def names_of(value: T) -> tuple[str, ...]:
    """Return the names of the fields of a call or an answer."""
    names: tuple[str, ...] = type(value).__slots__
    return names


def tensors_of(value: T) -> dict[str, Tensor]:
    """Return the tensors of a call or an answer by the names of their fields."""
    fields = ((name, getattr(value, name)) for name in names_of(value))
    return {name: field for name, field in fields if isinstance(field, Tensor)}


def moved(value: T, fields: Mapping[str, Any]) -> T:
    """Return a call or an answer as `value`, but for some fields; nothing is checked.

    For whoever moves the tensors of a valid call, or joins those of several: checks read values,
    for which a GPU would have to end all that it has begun.
    """
    made = object.__new__(type(value))
    for name in names_of(value):
        field = fields[name] if name in fields else getattr(value, name)
        object.__setattr__(made, name, field)
    return made
