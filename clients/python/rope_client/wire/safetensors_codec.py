"""application/x-safetensors: the header's length, the header as JSON, the tensors' bytes.

Written by hand since `safetensors.numpy` copies every tensor and cannot read bfloat16.
"""

import json
import math
import struct
from functools import lru_cache
from typing import Any

import numpy as np

from rope_client.wire.message import DTYPES, Message, bytes_of, params_json, to_wire

MEDIA_TYPE = "application/x-safetensors"

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LENGTH = struct.Struct("<Q")


def encode(message: Message) -> bytes:
    """Return the message's bytes."""
    arrays = {name: to_wire(name, tensor) for name, tensor in message.tensors.items()}
    layout = tuple([(name, array.dtype, array.shape) for name, array in arrays.items()])
    names, entries = _entries(layout)
    params = json.dumps(params_json(message.params))
    text = f'{{"__metadata__": {{"params": {params}}}{entries}}}'.encode()
    text += b" " * (-len(text) % 8)
    return b"".join([_LENGTH.pack(len(text)), text, *[bytes_of(arrays[name]) for name in names]])


@lru_cache(maxsize=256)
def _entries(
    layout: tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...],
) -> tuple[list[str], str]:
    """Return the names of tensors in the order of their bytes, and their part of the header.

    `layout` has the name, dtype and shape of each. The steps of a session repeat it.
    """
    # widest elements first, so that each tensor starts at a multiple of its element's size
    ordered = sorted(layout, key=lambda tensor: -tensor[1].itemsize)
    text, end = "", 0
    for name, dtype, shape in ordered:
        start, end = end, end + dtype.itemsize * math.prod(shape)
        entry = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": [start, end]}
        text += f", {json.dumps(name)}: {json.dumps(entry)}"
    return [name for name, _, _ in ordered], text


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
