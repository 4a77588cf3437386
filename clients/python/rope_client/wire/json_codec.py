"""application/json: parameters as members, tensors in base64."""

import json
from base64 import b64decode, b64encode
from typing import Any

import numpy as np
import numpy.typing as npt

from rope_client.wire.message import DTYPES, Message, bytes_of, params_json, to_wire

MEDIA_TYPE = "application/json"

_BY_NAME = {dtype.name: dtype for dtype in DTYPES.values()}


def encode(message: Message) -> bytes:
    """Return the message's bytes."""
    tensors = {name: _tensor(to_wire(name, tensor)) for name, tensor in message.tensors.items()}
    return params_json({**message.params, **tensors}).encode()


def decode(body: bytes) -> Message:
    """Return the message; members with `data` are its tensors, all others its parameters."""
    members = json.loads(body)
    tensors = {
        name: _array(member)
        for name, member in members.items()
        if isinstance(member, dict) and "data" in member
    }
    params = {name: member for name, member in members.items() if name not in tensors}
    return Message(tensors, params)


def _tensor(array: npt.NDArray[Any]) -> dict[str, Any]:
    return {
        "shape": array.shape,
        "dtype": array.dtype.name,
        "data": b64encode(bytes_of(array)).decode(),
        "encoding": "base64",
    }


def _array(member: dict[str, Any]) -> npt.NDArray[Any]:
    dtype = _BY_NAME[member["dtype"]]
    if member.get("encoding") == "base64":
        return np.ndarray(member["shape"], dtype, b64decode(member["data"], validate=True))
    return np.asarray(member["data"], dtype).reshape(member["shape"])
