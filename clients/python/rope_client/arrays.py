"""Arrays of the caller: numpy arrays, torch tensors, lists and numbers."""

import sys
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from rope_client.wire.message import DTYPES

_DTYPE_NAMES = {dtype.name for dtype in DTYPES.values()}


def array_of(name: str, value: Any) -> npt.NDArray[Any]:
    """Return the numpy array of an argument.

    A tensor on the CPU shares its memory with the array; others are copied.

    Raises:
        TypeError: a tensor has a dtype that the API does not have.
    """
    if not _is_tensor(value):
        return np.asarray(value)
    torch = sys.modules["torch"]
    dtype_name = str(value.dtype).removeprefix("torch.")
    if dtype_name not in _DTYPE_NAMES:
        names = ", ".join(dtype.name for dtype in DTYPES.values())
        raise TypeError(f"{name} must be one of {names}, got {value.dtype}")
    tensor = value.detach()
    if dtype_name != "bfloat16":
        return np.asarray(tensor.numpy(force=True))
    return np.asarray(tensor.view(torch.int16).numpy(force=True).view(ml_dtypes.bfloat16))


def arrays_of(
    tensors: Mapping[str, npt.ArrayLike | None],
) -> tuple[dict[str, npt.NDArray[Any]], tuple[str, ...]]:
    """Return the arrays of the arguments that are not None, and warnings about them."""
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    warnings = tuple(
        f"{name} requires grad, but no gradient flows through the service: "
        f"pass {name}.detach() if none is needed"
        for name, tensor in given.items()
        if _requires_grad(tensor)
    )
    return {name: array_of(name, tensor) for name, tensor in given.items()}, warnings


def _requires_grad(value: Any) -> bool:
    return _is_tensor(value) and bool(value.requires_grad)


def _is_tensor(value: Any) -> bool:
    # the program that has a tensor has imported torch; this package does not need torch
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)
