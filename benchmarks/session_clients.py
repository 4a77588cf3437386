"""Clients of one connection for benchmarks: HTTP/1.1 and WebSocket over a blocking socket.

They do as little as they can: the server is timed, and a floor pays the same for its client.
"""

import json
import socket
import struct
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from service.wire import Message, Parameters, safetensors_codec

TIMEOUT_S = 120
OPCODE_BINARY, OPCODE_PING = 2, 9


def encode(tensors: Mapping[str, Tensor], **params: Any) -> bytes:
    """Return a safetensors body."""
    return b"".join(safetensors_codec.encode(Message(tensors, Parameters.of(params))))


class Answer:
    """A safetensors answer, read."""

    def __init__(self, body: bytes) -> None:
        message = safetensors_codec.decode(body).message
        self.tensors, self.params = message.tensors, message.params.values


class Connection:
    """A socket that is read in whole parts."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def _read_header(self) -> bytes:
        """Return bytes up to an empty line."""
        while (end := self._received.find(b"\r\n\r\n")) < 0:
            self._receive()
        header, self._received = self._received[: end + 4], self._received[end + 4 :]
        return header

    def _read(self, size: int) -> bytes:
        """Return the next bytes."""
        while len(self._received) < size:
            self._receive()
        data, self._received = self._received[:size], self._received[size:]
        return data

    def _receive(self) -> None:
        data = self._socket.recv(2**18)
        if not data:
            raise SystemExit("a server has closed the connection")
        self._received = self._received + data if self._received else data


class HttpConnection(Connection):
    """Sends requests of one connection that is kept alive."""

    def request(self, method: str, path: str, content_type: str, body: bytes = b"") -> bytes:
        """Return the body of the answer.

        Raises:
            SystemExit: the status is another than 200, 201 or 204.
        """
        status, answer = self.call(http_request(method, path, content_type, body))
        if status not in (200, 201, 204):
            raise SystemExit(f"{method} {path}: {status} {answer[:500]!r}")
        return answer

    def call(self, request: bytes) -> tuple[int, bytes]:
        """Send a whole request; return the status and the body of the answer."""
        self._send(request)
        header = self._read_header()
        at = header.lower().find(b"content-length:")
        size = int(header[at + 15 : header.index(b"\r", at)]) if at > 0 else 0
        return int(header[9:12]), self._read(size)

    def post(self, path: str, tensors: Mapping[str, Tensor], **params: Any) -> Answer:
        """Send tensors; return the answer. Raises SystemExit."""
        body = encode(tensors, **params)
        return Answer(self.request("POST", path, safetensors_codec.media_type, body))

    def json(self, method: str, path: str, **values: Any) -> Any:
        """Send JSON, and return the answer's. Raises SystemExit."""
        body = json.dumps(values).encode() if method == "POST" else b""
        answer = self.request(method, path, "application/json", body)
        return json.loads(answer) if answer else None


def http_request(method: str, path: str, content_type: str, body: bytes) -> bytes:
    """Return the bytes of a request."""
    lines = (
        f"{method} {path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Content-Type: {content_type}",
        f"Accept: {content_type}",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join((*lines, "", "")).encode() + body


class WebSocketConnection(Connection):
    """A WebSocket whose messages are binary frames. The mask of its frames is zero."""

    def __init__(self, port: int, path: str) -> None:
        super().__init__(port)
        lines = (
            f"GET {path} HTTP/1.1",
            "Host: 127.0.0.1",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version: 13",
        )
        self._send("\r\n".join((*lines, "", "")).encode())
        header = self._read_header()
        if b" 101 " not in header:
            raise SystemExit(f"no WebSocket at {path}: {header!r}")

    def call(self, request: bytes) -> bytes:
        """Send a frame; return the message of the next frame.

        Raises:
            SystemExit: it is not binary, so a failure or the end of the stream.
        """
        self._send(request)
        while (frame := self._read_frame())[0] == OPCODE_PING:
            self._send(struct.pack("!BBI", 0x8A, 0x80 | len(frame[1]), 0) + frame[1])
        opcode, message = frame
        if opcode != OPCODE_BINARY:
            raise SystemExit(f"a stream has failed: {message[:500]!r}")
        return message

    def _read_frame(self) -> tuple[int, bytes]:
        first, size = self._read(2)
        if size == 126:
            (size,) = struct.unpack("!H", self._read(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self._read(8))
        return first & 15, self._read(size)


def websocket_frame(message: bytes) -> bytes:
    """Return the frame of a binary message."""
    size = len(message)
    if size < 126:
        header = struct.pack("!BB", 0x82, 0x80 | size)
    elif size < 2**16:
        header = struct.pack("!BBH", 0x82, 0xFE, size)
    else:
        header = struct.pack("!BBQ", 0x82, 0xFF, size)
    return header + bytes(4) + message


def random_tokens(
    num_tokens: int, *, heads: int, kv_heads: int, head_dim: int, seed: int
) -> dict[str, Tensor]:
    """Return q, k and v of tokens, bfloat16 `[1, tokens, heads, head_dim]`."""
    random = torch.Generator().manual_seed(seed)
    sizes = {"q": heads, "k": kv_heads, "v": kv_heads}
    return {
        name: torch.randn(1, num_tokens, size, head_dim, generator=random).bfloat16()
        for name, size in sizes.items()
    }
