"""application/x-safetensors: the header's length, the header as JSON, the tensors' bytes.

Written by hand since `safetensors.numpy` copies every tensor and cannot read bfloat16.
"""

import json
import struct
from typing import Any

import numpy as np

from rope_client.wire.message import DTYPES, Message, bytes_of, params_json, to_wire

MEDIA_TYPE = "application/x-safetensors"

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LENGTH = struct.Struct("<Q")


def encode(message: Message) -> bytes:
    """Return the message's bytes."""
    arrays = {name: to_wire(name, tensor) for name, tensor in message.tensors.items()}
    # widest elements first, so that each tensor starts at a multiple of its element's size
    ordered = sorted(arrays, key=lambda name: -arrays[name].itemsize)
    header: dict[str, Any] = {"__metadata__": {"params": params_json(message.params)}}
    end = 0
    for name in ordered:
        start, end = end, end + arrays[name].nbytes
        header[name] = {
            "dtype": _NAMES[arrays[name].dtype],
            "shape": arrays[name].shape,
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([_LENGTH.pack(len(text)), text, *(bytes_of(arrays[name]) for name in ordered)])


def decode(body: bytes) -> Message:
    """Return the message; its tensors are read-only views of `body`."""
    data = _LENGTH.size + _LENGTH.unpack_from(body)[0]
    header = json.loads(body[_LENGTH.size : data])
    params = json.loads(header.pop("__metadata__", {}).get("params", "{}"))
    tensors = {
        name: np.ndarray(
            entry["shape"], DTYPES[entry["dtype"]], body, data + entry["data_offsets"][0]
        )
        for name, entry in header.items()
    }
    return Message(tensors, params)
