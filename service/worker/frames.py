"""Frames between the service and its worker: a JSON object, and a message in safetensors."""

import json
import socket
import struct
from collections.abc import Callable, Mapping
from typing import Any

import rope_core.errors
from service import errors
from service.wire import Message, safetensors_codec

ABANDONED = "abandoned"
"""Outcome of a request whose computation was stopped."""

READY = b"\x01"
"""What the worker sends before it takes requests."""

_LENGTHS = struct.Struct("<IQ")
"""Bytes of the object, and of the message."""

_ERRORS = vars(rope_core.errors) | vars(errors) | {"RuntimeError": RuntimeError}
"""Classes of errors by name."""


class Closed(Exception):
    """The other process has closed the socket."""


def describe_error(failure: Exception) -> dict[str, str]:
    """Return the fields of a frame that tells a failure."""
    return {"outcome": type(failure).__name__, "text": str(failure)}


def error_of(fields: Mapping[str, Any]) -> Exception:
    """Return the failure that a frame tells, with its class and text."""
    kind: type[Exception] = _ERRORS[fields["outcome"]]
    # the constructor of a class may take other arguments than a text
    return kind.__new__(kind, fields["text"])


def send_frame(sock: socket.socket, fields: Mapping[str, Any], message: Message) -> None:
    """Send a frame.

    Raises:
        Closed: the other process has ended.
    """
    text, parts = json.dumps(fields).encode(), safetensors_codec.encode(message)
    try:
        sock.sendall(_LENGTHS.pack(len(text), sum(map(len, parts))) + text)
        for part in parts:
            sock.sendall(part)
    except OSError:
        raise Closed from None


def receive_frame(
    sock: socket.socket, lease: Callable[[int], memoryview]
) -> tuple[dict[str, Any], Message]:
    """Receive a frame; its tensors are views of the memory that `lease` returns.

    Raises:
        Closed: the other process has ended.
    """
    text_bytes, message_bytes = _LENGTHS.unpack(_receive(sock, bytearray(_LENGTHS.size)))
    fields = json.loads(bytes(_receive(sock, bytearray(text_bytes))))
    body = lease(message_bytes)
    return fields, safetensors_codec.decode(_receive(sock, body)).message


def _receive(sock: socket.socket, buffer: bytearray | memoryview) -> bytearray | memoryview:
    """Fill a buffer, and return it."""
    view, start = memoryview(buffer), 0
    while start < len(view):
        try:
            num_bytes = sock.recv_into(view[start:])
        except OSError:
            raise Closed from None
        if not num_bytes:
            raise Closed
        start += num_bytes
    return buffer
