"""Messages of the wire, written and read here: JSON and safetensors."""

import base64
import json
import struct
from typing import Any

import torch
from torch import Tensor

CODES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.bool: "BOOL",
}
DTYPES = {code: dtype for dtype, code in CODES.items()}


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _tensor(data: bytes, dtype: torch.dtype, shape: list[int]) -> Tensor:
    if not data:
        return torch.zeros(shape, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(dtype).reshape(shape)


def write_safetensors(params: dict[str, Any], tensors: dict[str, Tensor]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"params": json.dumps(params)}}
    body = b""
    for name, tensor in tensors.items():
        data = _bytes(tensor)
        header[name] = {
            "dtype": CODES[tensor.dtype],
            "shape": [*tensor.shape],
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def read_safetensors(content: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    (size,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + size])
    params = json.loads(header.pop("__metadata__", {}).get("params", "{}"))
    body = content[8 + size :]
    tensors = {
        name: _tensor(body[slice(*entry["data_offsets"])], DTYPES[entry["dtype"]], entry["shape"])
        for name, entry in header.items()
    }
    return params, tensors


def write_json(
    params: dict[str, Any], tensors: dict[str, Tensor], *, as_base64: bool = False
) -> bytes:
    message = dict(params)
    for name, tensor in tensors.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        member: dict[str, Any] = {"shape": [*tensor.shape], "dtype": dtype}
        if as_base64 or tensor.dtype == torch.bfloat16:
            member |= {"data": base64.b64encode(_bytes(tensor)).decode(), "encoding": "base64"}
        else:
            member["data"] = tensor.flatten().tolist()
        message[name] = member
    return json.dumps(message).encode()


def read_json(content: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    params: dict[str, Any] = {}
    tensors = {}
    for name, member in json.loads(content).items():
        if name not in ("out", "lse") or not isinstance(member, dict):
            params[name] = member
        elif member.get("encoding") == "base64":
            dtype = getattr(torch, member["dtype"])
            tensors[name] = _tensor(base64.b64decode(member["data"]), dtype, member["shape"])
        else:
            dtype = getattr(torch, member["dtype"])
            tensors[name] = torch.tensor(member["data"], dtype=dtype).reshape(member["shape"])
    return params, tensors
