"""`application/json`: one object, in which lists and objects with `data` are tensors."""

import base64
import binascii
import itertools
import math
from typing import Any

import orjson
import torch
from torch import Tensor

from service.errors import BadMessage, BadTensor, printable
from service.wire.elements import read_elements
from service.wire.message import (
    DTYPES,
    MAX_RANK,
    MAX_TENSORS,
    Buffer,
    Decoded,
    Message,
    Parameters,
    check_booleans,
    check_shape,
    raw,
    view,
)

media_type = "application/json"
memory_factor = 32  # measured on arrays of empty arrays, the worst
inline_limit_bytes = 64 * 2**10

_INTEGERS = {"positions", "q_positions", "k_positions", "delta"}
_INTEGERS |= {"cu_seqlens", "cu_seqlens_q", "cu_seqlens_k", "q_index", "k_index"}
_INTEGERS |= {"token_types", "input_ids", "attention_mask", "rope_delta", "text_lengths", "uid"}
_INTEGERS |= {"grid_thw", "grid_hw", "image_grid_thw", "video_grid_thw"}
"""Names whose bare lists of numbers hold int64; those of other names hold float32."""

_SCALARS = {"delta"}
"""Names that may be one bare number."""

_TEXT_DTYPES = {dtype: name for name, dtype in DTYPES.items()}


def decode(body: Buffer) -> Decoded:
    """Read a body."""
    try:
        members = orjson.loads(body)
    except orjson.JSONDecodeError as broken:
        raise BadMessage(f"not JSON: {broken}") from None
    if not isinstance(members, dict):
        raise BadMessage("the body must be an object")
    tensors: dict[str, Tensor] = {}
    params: dict[str, object] = {}
    as_base64 = False
    for name, member in members.items():
        if isinstance(member, list) or (name in _SCALARS and type(member) in (int, float)):
            tensors[name] = _from_nested(name, member)
        elif isinstance(member, dict) and "data" in member:
            tensors[name] = _from_object(name, member)
            as_base64 = as_base64 or "encoding" in member
        else:
            params[name] = member
    if len(tensors) > MAX_TENSORS:
        raise BadMessage(f"a message may have {MAX_TENSORS} tensors, got {len(tensors)}")
    try:
        key = orjson.dumps(params)
    except orjson.JSONEncodeError:
        raise BadMessage("parameters are nested too deep") from None
    return Decoded(Message(tensors, Parameters(params, key)), as_base64)


def encode(message: Message, as_base64: bool = False) -> list[Buffer]:
    """Write a body."""
    members = {name: _to_object(t, as_base64) for name, t in message.tensors.items()}
    members |= message.params.values
    return [orjson.dumps(members, dict, orjson.OPT_SERIALIZE_NUMPY)]


def _from_nested(name: str, nested: object) -> Tensor:
    shape: list[int] = []
    level: list[Any] = [nested]
    while level and isinstance(level[0], list):
        if set(map(type, level)) != {list} or len(set(map(len, level))) != 1:
            raise BadTensor(name, "a list of lists of equal lengths", "ragged ones")
        shape.append(len(level[0]))
        if len(shape) > MAX_RANK:
            raise BadTensor(name, f"of at most {MAX_RANK} axes", "more")
        level = list(itertools.chain.from_iterable(level))
    dtype = "int64" if name in _INTEGERS else "float32"
    if level and type(level[0]) is bool:
        dtype = "bool"
    return read_elements(name, level, DTYPES[dtype], dtype).view(shape)


def _from_object(name: str, member: dict[str, Any]) -> Tensor:
    if unknown := set(member) - {"shape", "dtype", "data", "encoding"}:
        raise BadTensor(name, "of shape, dtype, data and encoding", printable(min(unknown)))
    shape, dtype, data = member.get("shape"), member.get("dtype"), member["data"]
    if type(dtype) is not str or dtype not in DTYPES:
        raise BadTensor(name, f"of dtype {', '.join(DTYPES)}", printable(dtype))
    shape = check_shape(name, shape, DTYPES[dtype])
    if "encoding" in member:
        tensor = _from_base64(name, data, member["encoding"], DTYPES[dtype])
    elif isinstance(data, list):
        tensor = read_elements(name, data, DTYPES[dtype], dtype)
    else:
        raise BadTensor(name, "a list in data, or base64 with its encoding", "neither")
    if math.prod(shape) != tensor.numel():
        expected = f"{math.prod(shape)} elements for shape {printable(shape)}"
        raise BadTensor(name, expected, tensor.numel())
    return tensor.view(shape)


def _from_base64(name: str, data: object, encoding: object, dtype: torch.dtype) -> Tensor:
    if encoding != "base64" or not isinstance(data, str):
        raise BadTensor(name, 'text in data with "encoding": "base64"', printable(encoding))
    try:
        decoded = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise BadTensor(name, "base64", "other characters, or a wrong length") from None
    if len(decoded) % dtype.itemsize:
        expected = f"whole elements of {dtype.itemsize} bytes"
        raise BadTensor(name, expected, f"{len(decoded)} bytes")
    tensor = view(decoded, dtype, (len(decoded) // dtype.itemsize,), 0)
    if dtype is torch.bool:
        check_booleans(name, tensor)
    return tensor


def _to_object(tensor: Tensor, as_base64: bool) -> dict[str, Any]:
    flat = tensor.reshape(-1)
    described: dict[str, Any] = {"shape": list(tensor.shape), "dtype": _TEXT_DTYPES[tensor.dtype]}
    if as_base64 or not bool(flat.isfinite().all()):  # JSON has no NaN and no Infinity
        text = base64.b64encode(raw(tensor.contiguous())).decode()
        return described | {"data": text, "encoding": "base64"}
    # numpy has no bfloat16; float32 holds each of its numbers
    numbers = flat.float() if tensor.dtype is torch.bfloat16 else flat
    return described | {"data": numbers.numpy()}
