"""The elements of a tensor as JSON has them: a list of numbers, or of booleans."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from service.errors import BadTensor


def read_elements(name: str, elements: list[Any], dtype: torch.dtype, called: str) -> Tensor:
    """Return a tensor `[len(elements)]`.

    Args:
        name: of the tensor, for errors.
        elements: numbers or booleans.
        dtype: what they are to be.
        called: the name of that dtype on the wire.

    Raises:
        BadTensor: one is of another kind, or a number that the dtype does not hold. What is not
            finite is held by each floating dtype.
    """
    kinds = set(map(type, elements))
    if dtype is torch.bool:
        _check_kinds(name, kinds, {bool}, "booleans alone")
        return torch.from_numpy(np.array(elements, dtype=np.bool_))
    if not dtype.is_floating_point:
        _check_kinds(name, kinds, {int}, "integers")
        try:
            array = np.array(elements, dtype=np.int64)
        except OverflowError:
            raise BadTensor(name, "of integers of 64 bits", "larger ones") from None
        wide = torch.from_numpy(array)
        tensor = wide.to(dtype)
        held = tensor == wide
    else:
        _check_kinds(name, kinds, {int, float}, "numbers")
        try:
            wide = torch.from_numpy(np.array(elements, dtype=np.float64))
        except OverflowError:
            raise BadTensor(name, f"of numbers that {called} holds", "larger ones") from None
        tensor = wide.to(dtype)
        held = tensor.isfinite() | ~wide.isfinite()
    if not bool(held.all()):
        raise BadTensor(name, f"of numbers that {called} holds", "larger ones")
    return tensor


def _check_kinds(name: str, kinds: set[type], legal: set[type], expected: str) -> None:
    if others := kinds - legal:
        raise BadTensor(name, f"of {expected}", min(kind.__name__ for kind in others))
