"""`application/json`: one object, in which lists and objects with `data` are tensors."""

import base64
import itertools
import math
import re
from collections.abc import Collection
from dataclasses import replace
from functools import partial
from typing import Any

import orjson
import simdjson
import torch
from torch import Tensor

from service.errors import BadMessage, BadTensor, printable
from service.wire import config_json, typed_json
from service.wire.body_format import body_hint
from service.wire.elements import (
    DTYPES,
    MAX_RANK,
    all_finite,
    check_booleans,
    check_shape,
    parse_elements,
    view_as_bytes,
    view_as_tensor,
)
from service.wire.message import MAX_TENSORS, Buffer, Decoded, Message, Parameters, params_key
from service.wire.typed_json import Document, NotTyped, Numbers

media_type = "application/json"
memory_factor = 54  # measured on lists nested 1,000 deep; lists of empty lists take 34
answer_memory_factor = 32
inline_limit_bytes = 256 * 2**10

TOO_DEEP = "parameters are nested too deep"

_CONSTANT = re.compile(rb"\b(NaN|Infinity)\b")

_INT64_NAMES = frozenset(
    (
        *("positions", "q_positions", "k_positions", "delta"),
        *("cu_seqlens", "cu_seqlens_q", "cu_seqlens_k", "q_index", "k_index"),
        *("token_types", "input_ids", "attention_mask", "rope_delta", "text_lengths", "uid"),
        *("lengths", "starts"),
        *("grid_thw", "grid_hw", "image_grid_thw", "video_grid_thw"),
    )
)
"""Tensors whose nested lists of numbers are int64; those of other names are float32."""

_SCALAR_NAMES = frozenset(("delta",))
"""Tensors that may be a single number."""

_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def long_text_bytes(body: Buffer) -> int:
    """Return the length of a body if it is not parsed on the event loop, else 0."""
    return len(body) if len(body) > inline_limit_bytes else 0


def decode(
    body: Buffer, *, tensor_names: Collection[str] | None = None, is_cut: bool = False
) -> Decoded:
    """Read a body.

    Args:
        body: the text.
        tensor_names: names of members that are tensors; every other member is a parameter, also a
            list. None: lists, and objects with `data`, are tensors.
        is_cut: whether it is a text that `config_json` has cut: others are cut if need be.

    Raises:
        BadMessage: the body is not valid JSON, has too many tensors or is nested too deep.
        BadTensor: the body is not an object, or a list or an object with `data` is not a tensor.
        orjson.JSONDecodeError: a cut text is not valid JSON.
    """
    try:
        if decoded := typed_json.read(body, partial(_decode_typed, names=tensor_names)):
            return decoded
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if is_cut:
            raise
        return _decode_around_configs(body, error, tensor_names)
    try:
        return _parse(document, tensor_names)
    except BadTensor:
        _check_depth(document)
        raise


def _decode_around_configs(
    body: Buffer, failure: orjson.JSONDecodeError, names: Collection[str] | None
) -> Decoded:
    """Read a body that orjson refuses, but which is valid around configs with NaN or Infinity."""
    try:
        cut = config_json.cut_configs(body)
    except orjson.JSONDecodeError as error:
        raise BadMessage(f"the body is not valid JSON: {error}") from None
    if cut is not None:
        try:
            message, as_base64 = decode(cut.text, tensor_names=names, is_cut=True)
        except orjson.JSONDecodeError as error:
            raise _not_json(cut.text, cut.locate(error)) from None
        except (BadMessage, BadTensor):
            if cut.put_back(orjson.loads(cut.text), config_json.IN_PARAMS):
                raise
            raise _not_json(body, failure) from None
        values = dict(message.params.values)
        if cut.put_back(values, config_json.IN_PARAMS):
            try:
                params = Parameters(values, params_key(values))
            except orjson.JSONEncodeError:
                raise BadMessage(TOO_DEEP) from None
            return Decoded(replace(message, params=params), as_base64)
    raise _not_json(body, failure)


def encode(message: Message, as_base64: bool = False) -> list[Buffer]:
    """Write a body; tensors are objects with `shape`, `dtype` and flat `data`."""
    members: dict[str, object] = {}
    for name, tensor in message.tensors.items():
        members[name] = _format_flat(tensor, as_base64)
    members |= message.params.values
    return [orjson.dumps(members, dict, orjson.OPT_SERIALIZE_NUMPY)]


def _not_json(body: Buffer, error: orjson.JSONDecodeError) -> BadMessage:
    hint = "; JSON has no NaN and no Infinity: use safetensors" if _CONSTANT.search(body) else ""
    return BadMessage(f"the body is not valid JSON: {error}{body_hint(body, 'JSON') or hint}")


def _decode_typed(document: Document, names: Collection[str] | None) -> Decoded:
    members = document.members(document.root)
    for name, value in members.items():
        if names is not None and name not in names:
            members[name] = document.plain(value)
        elif isinstance(value, simdjson.Array):
            members[name] = document.numbers(value)
        elif isinstance(value, simdjson.Object) and "data" in value and "encoding" not in value:
            members[name] = document.tensor(value)
            if isinstance(data := members[name]["data"], Numbers) and len(data.shape) > 1:
                raise NotTyped
        else:
            members[name] = document.plain(value)
    document.check_lists()
    return _parse(members, names)


def _parse(members: object, names: Collection[str] | None) -> Decoded:
    if not isinstance(members, dict):
        raise BadTensor("the body", "a JSON object", type(members).__name__)
    tensors: dict[str, Tensor] = {}
    params: dict[str, object] = {}
    as_base64 = False
    for name, value in members.items():
        if names is not None and name not in names:
            params[name] = value
        elif isinstance(value, list | Numbers) or (
            name in _SCALAR_NAMES and type(value) in (int, float)
        ):
            tensors[name] = _parse_nested(name, value)
        elif isinstance(value, dict) and "data" in value:
            tensors[name] = _parse_flat(name, value)
            as_base64 = as_base64 or "encoding" in value
        else:
            params[name] = value
    if len(tensors) > MAX_TENSORS:
        raise BadMessage(f"a message may have at most {MAX_TENSORS} tensors, got {len(tensors)}")
    try:
        key = orjson.dumps(params)
    except orjson.JSONEncodeError:
        raise BadMessage(TOO_DEEP) from None
    return Decoded(Message(tensors, Parameters(params, key)), as_base64)


def _check_depth(document: object) -> None:
    """Check that a document is not nested too deep.

    Raises:
        BadMessage: `orjson` does not write what is nested so deep.
    """
    try:
        orjson.dumps(document)
    except orjson.JSONEncodeError:
        raise BadMessage("the body is nested too deep") from None


def _parse_nested(name: str, nested: list[Any] | Numbers | float) -> Tensor:
    dtype_name = "int64" if name in _INT64_NAMES else "float32"
    if isinstance(nested, Numbers):
        return parse_elements(name, nested, DTYPES[dtype_name], dtype_name).view(nested.shape)
    shape: list[int] = []
    level: list[Any] = [nested]
    while level and isinstance(level[0], list):
        if set(map(type, level)) != {list} or len(set(map(len, level))) != 1:
            raise BadTensor(name, "a list of lists of equal lengths", "a ragged list")
        shape.append(len(level[0]))
        if len(shape) > MAX_RANK:
            raise BadTensor(name, f"a list of at most {MAX_RANK} axes", "more")
        level = list(itertools.chain.from_iterable(level))
    if level and type(level[0]) is bool:
        dtype_name = "bool"
    return parse_elements(name, level, DTYPES[dtype_name], dtype_name).view(shape)


def _parse_flat(name: str, value: dict[str, Any]) -> Tensor:
    if unknown := value.keys() - {"shape", "dtype", "data", "encoding"}:
        keys = "an object with the keys shape, dtype, data and encoding"
        raise BadTensor(name, keys, printable(min(unknown)))
    dtype_name, data = value.get("dtype"), value["data"]
    if not isinstance(dtype_name, str) or dtype_name not in DTYPES:
        raise BadTensor(f"dtype of {name}", f"one of {', '.join(DTYPES)}", printable(dtype_name))
    dtype = DTYPES[dtype_name]
    shape = check_shape(name, value.get("shape"), dtype)
    if "encoding" in value:
        tensor = _parse_base64(name, data, value["encoding"], dtype)
    elif isinstance(data, list | Numbers):
        tensor = parse_elements(name, data, dtype, dtype_name)
    else:
        expected = 'a list, or text with "encoding": "base64"'
        raise BadTensor(f"data of {name}", expected, type(data).__name__)
    if math.prod(shape) != tensor.numel():
        expected = f"a list of {math.prod(shape)} elements for shape {printable(shape)}"
        raise BadTensor(f"data of {name}", expected, tensor.numel())
    return tensor.view(shape)


def _parse_base64(name: str, data: Any, encoding: object, dtype: torch.dtype) -> Tensor:
    """Return the elements of `data` as a tensor `[elements]` of `dtype`."""
    if encoding != "base64":
        raise BadTensor(f"encoding of {name}", "base64", printable(encoding))
    try:
        decoded = base64.b64decode(data, validate=True)
    except (TypeError, ValueError):
        raise BadTensor(f"data of {name}", "valid base64 text", printable(data)) from None
    if len(decoded) % dtype.itemsize:
        expected = f"whole elements of {dtype.itemsize} bytes"
        raise BadTensor(f"data of {name}", expected, f"{len(decoded)} bytes")
    tensor = view_as_tensor(decoded, dtype, (len(decoded) // dtype.itemsize,), 0)
    if dtype is torch.bool:
        check_booleans(name, tensor)
    return tensor


def _format_flat(tensor: Tensor, as_base64: bool) -> dict[str, object]:
    flat = tensor.contiguous().view(-1)  # orjson writes only contiguous arrays
    fields: dict[str, object] = {"shape": list(tensor.shape), "dtype": _DTYPE_NAMES[tensor.dtype]}
    if as_base64 or not all_finite(flat):  # JSON has no NaN and no Infinity
        text = base64.b64encode(view_as_bytes(flat)).decode()
        return fields | {"data": text, "encoding": "base64"}
    # numpy has no bfloat16; float32 holds each of its numbers
    numbers = flat.float() if tensor.dtype is torch.bfloat16 else flat
    return fields | {"data": numbers.numpy()}
