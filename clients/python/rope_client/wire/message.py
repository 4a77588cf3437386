"""Messages: named tensors and named parameters."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "BOOL": np.dtype(np.bool_),
}
"""The dtypes of the API by their names in safetensors; JSON uses numpy's names."""


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """One request or one answer."""

    tensors: Mapping[str, npt.NDArray[Any]]
    params: Mapping[str, Any]


def params_json(params: Mapping[str, Any]) -> str:
    """Return the parameters as JSON; arrays of numpy and torch become lists.

    Raises:
        TypeError: a parameter has no form in JSON.
    """
    return json.dumps(params, default=_plain)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"parameters must be JSON values, got {type(value).__name__}")


def to_wire(name: str, tensor: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return `tensor` contiguous and little-endian; copied only if it is not."""
    array = np.asarray(tensor)
    if array.dtype.newbyteorder("<") not in DTYPES.values():
        names = ", ".join(dtype.name for dtype in DTYPES.values())
        raise TypeError(f"{name} must be one of {names}, got {array.dtype}")
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def bytes_of(array: npt.NDArray[Any]) -> memoryview:
    """Return the bytes of a contiguous array, without a copy."""
    # ml_dtypes' bfloat16 has no buffer protocol: bytes and join refuse it
    return array.reshape(-1).view(np.uint8).data
