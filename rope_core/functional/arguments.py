"""Arguments of the public functions in the forms that users have."""

import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from rope_core.calls.rope_checks import POSITION_RANGE, widths
from rope_core.checks import has_unusual_heads, looks_heads_first
from rope_core.errors import HEADS_FIRST, ConfigError, ShapeError, brief
from rope_core.hf import Resolved
from rope_core.sources import FORMS, resolve

MISSING: Any = object()
"""Default of a rope that must be given."""

STACK_LEVEL = 4
"""Frames from `warnings.warn` to the caller of `rotate` or `attend`."""


class RopeWarning(UserWarning):
    """An answer that may not be the one that was meant."""


class ArrayLike(Protocol):
    """An array of numpy, or of another library with its interface."""

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """Where the elements lie, and their dtype."""

    def tolist(self) -> Any:
        """Return the elements as lists."""


Numbers = Tensor | ArrayLike | Sequence[Any] | int | float
"""Positions, or ends of sequences: a tensor, an array of numpy, nested lists, a range, a number."""


def as_tensor(name: str, numbers: Numbers | None, device: torch.device) -> Tensor | None:
    """Return numbers as a tensor on `device`, None for None.

    Whole numbers that are no tensor become int64; fractional ones of lists become float64.

    Raises:
        ShapeError: they are no numbers, lists differ in length, or int64 cannot hold one.
    """
    if numbers is None:
        return None
    if isinstance(numbers, Tensor):
        return numbers.to(device)
    values: Any = numbers
    try:
        if hasattr(values, "__array_interface__"):
            is_signed = values.dtype.kind == "i" and values.dtype.itemsize >= 4
            if is_signed or values.dtype.kind == "f":
                # torch takes neither another order of bytes nor a step back
                values = values.astype(values.dtype.newbyteorder("="), order="C")
            else:
                values = values.tolist()
            return torch.tensor(values, device=device)
        values = list(values) if isinstance(values, range) else values
        tensor = torch.tensor(values)
        is_fractional = tensor.is_floating_point()
        return torch.tensor(values, dtype=torch.float64 if is_fractional else None, device=device)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        expected = f"a tensor, an array, a range or lists of numbers {POSITION_RANGE}"
        raise ShapeError(name, expected, f"{brief(numbers)} ({error})") from None


def refuse_arguments(**arguments: Any) -> None:
    """Raise ConfigError if an argument is given together with a call, which has its own."""
    for name, value in arguments.items():
        if value is not None and value is not MISSING:
            raise ConfigError(name, "a field of the call, not another argument", "one")


def resolve_for(rope: Any, x: Tensor, positions: Tensor | None) -> Resolved:
    """Resolve a rope for heads `[..., D]`, and issue the warnings of the result."""
    if rope is MISSING or rope is None:
        raise ConfigError("rope", FORMS, "none")
    head_dim, num_axes = widths(x, positions)
    resolved = resolve(rope, head_dim=head_dim, num_axes=num_axes)
    for text in resolved.warnings:
        warnings.warn(text, RopeWarning, stacklevel=STACK_LEVEL)
    return resolved


def warn_of_heads_first(q: Tensor, k: Tensor | None) -> None:
    """Warn if tensors without positions look like `[B, H, S, D]`."""
    if (q.ndim == 4 and has_unusual_heads(q)) or looks_heads_first(q, k):
        warnings.warn(HEADS_FIRST, RopeWarning, stacklevel=STACK_LEVEL)
