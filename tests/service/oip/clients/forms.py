"""Convert tensors to NumPy arrays and back, and messages of gRPC to JSON objects."""

from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

DATATYPES = {
    torch.float32: "FP32",
    torch.float16: "FP16",
    torch.bfloat16: "BF16",
    torch.float64: "FP64",
    torch.int64: "INT64",
    torch.int32: "INT32",
    torch.bool: "BOOL",
}


def value_of(parameter: dict[str, Any]) -> Any:
    """Return the value of a parameter, an object of one field."""
    (value,) = parameter.values()
    return value


def plain(message: Any) -> Any:
    """Return a message of gRPC as a JSON object; other values are returned unchanged."""
    descriptor = getattr(message, "DESCRIPTOR", None)
    if descriptor is None:
        return message
    fields: dict[str, Any] = {}
    for field in descriptor.fields:
        value = getattr(message, field.name)
        if field.containing_oneof is not None:
            if message.HasField(field.name):
                fields[field.name] = plain(value)
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            fields[field.name] = {key: plain(value[key]) for key in value}
        elif isinstance(value, str | bytes | int | float):
            enum = field.enum_type
            fields[field.name] = enum.values_by_number[value].name if enum else value
        elif hasattr(value, "DESCRIPTOR"):
            fields[field.name] = plain(value)
        else:
            fields[field.name] = [plain(item) for item in value]
    return fields


def array_of(x: Tensor) -> np.ndarray:
    """Return a NumPy array; BF16 becomes the bfloat16 of ml_dtypes."""
    if x.dtype == torch.bfloat16:
        return x.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return x.contiguous().numpy()


def tensor_of(array: np.ndarray) -> Tensor:
    """Undo `array_of`."""
    array = array.copy()
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
