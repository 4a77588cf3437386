"""Tensors of recorded requests, and how each wire format writes them."""

import base64
from typing import Any

import torch
from torch import Tensor

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
    "int64": torch.int64,
    "int32": torch.int32,
    "bool": torch.bool,
}
SAFETENSORS = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "I64": torch.int64,
    "I32": torch.int32,
    "BOOL": torch.bool,
}
OIP = {
    "FP32": torch.float32,
    "FP16": torch.float16,
    "BF16": torch.bfloat16,
    "FP64": torch.float64,
    "INT64": torch.int64,
    "INT32": torch.int32,
    "BOOL": torch.bool,
}


def heads(*shape: int) -> Tensor:
    """Return float32 numbers that float16 and bfloat16 hold as well."""
    count = torch.Size(shape).numel()
    return (torch.arange(count) * 37 % 17 - 8).float().div(4).view(shape)


def integers(*values: int) -> Tensor:
    """Return an int64 tensor `[values]`."""
    return torch.tensor(values, dtype=torch.int64)


def raw(tensor: Tensor) -> bytes:
    """Return the little-endian bytes of a tensor."""
    tensor = tensor.contiguous()
    if not tensor.numel():
        return b""
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.view(torch.int16)
    return tensor.numpy().tobytes()


def from_raw(data: bytes, dtype: torch.dtype) -> Tensor:
    """Return the elements of `raw` as a tensor of one axis."""
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)


def nested(tensor: Tensor) -> list[Any]:
    """Return nested lists."""
    return tensor.tolist()


def shaped(tensor: Tensor) -> dict[str, Any]:
    """Return the object with shape, dtype and data."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    return {
        "shape": [*tensor.shape],
        "dtype": names[tensor.dtype],
        "data": tensor.flatten().tolist(),
    }


def to_base64(tensor: Tensor) -> dict[str, Any]:
    """Return the object with data in base64."""
    return shaped(tensor) | {
        "data": base64.b64encode(raw(tensor)).decode(),
        "encoding": "base64",
    }


def wire(name: str, tensor: Tensor, binary: bool = False) -> dict[str, Any]:
    """Return an input of the inference protocol; where `binary`, its bytes follow the JSON."""
    names = {dtype: name for name, dtype in OIP.items()}
    described = {"name": name, "datatype": names[tensor.dtype], "shape": [*tensor.shape]}
    if binary:
        return described | {"parameters": {"binary_data_size": len(raw(tensor))}}
    return described | {"data": tensor.flatten().tolist()}


def matrix(rows: list[Any]) -> Tensor:
    """Return an int64 tensor of the shape of nested lists."""
    return torch.tensor(rows, dtype=torch.int64)
