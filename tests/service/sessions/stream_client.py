"""Clients of streams: `websockets` for messages, and a socket for bytes of any kind."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import torch
import websockets
from torch import Tensor
from websockets.asyncio.client import ClientConnection

from service.wire import Message, Parameters, safetensors_codec
from tests.service.planned.servers import Running

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def message(tensors: dict[str, Tensor] | None = None, **params: Any) -> bytes:
    """Return the body of a message."""
    parts = safetensors_codec.encode(Message(tensors or {}, Parameters.of(params)))
    return b"".join(map(bytes, parts))


def step(seq: int, *, size: int = 4, **params: Any) -> bytes:
    """Return a step whose query is `size` times `seq`."""
    q = torch.full((size,), float(seq))
    return message({"q": q}, op="step", seq=seq, **{"expected_length": seq, **params})


def read(data: str | bytes) -> dict[str, Any]:
    """Return the members of an answer, and its tensors; a failure has `status`."""
    if isinstance(data, str):
        return json.loads(data)
    answer = safetensors_codec.decode(data).message
    return {**answer.params.values, **answer.tensors}


@asynccontextmanager
async def stream(
    service: Running, path: str = "/v1/sessions/a/stream", **options: Any
) -> AsyncIterator[ClientConnection]:
    """Open a stream."""
    host, port = service.address
    options = {"max_size": None, "ping_interval": None, "compression": None} | options
    async with websockets.connect(f"ws://{host}:{port}{path}", **options) as connection:
        yield connection


def handshake(path: str = "/v1/sessions/a/stream", *lines: str) -> bytes:
    """Return the bytes of a handshake."""
    header = (
        f"GET {path} HTTP/1.1",
        "Host: localhost",
        "Connection: Upgrade",
        "Upgrade: websocket",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
        *lines,
    )
    return "\r\n".join((*header, "", "")).encode()


def frame(opcode: int, data: bytes, *, fin: bool = True, masked: bool = True) -> bytes:
    """Return a frame as a client sends it; the mask is zero."""
    size = len(data)
    if size < 126:
        length = struct.pack("!B", (masked << 7) | size)
    elif size < 2**16:
        length = struct.pack("!BH", (masked << 7) | 126, size)
    else:
        length = struct.pack("!BQ", (masked << 7) | 127, size)
    return bytes([(fin << 7) | opcode]) + length + bytes(4 * masked) + data


class RawClient:
    """Sends bytes, and reads frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def read_header(self) -> bytes:
        """Return the header of the response to the handshake."""
        return await self.reader.readuntil(b"\r\n\r\n")

    async def read_frame(self) -> tuple[int, bytes]:
        """Return the opcode and the data of the next frame."""
        first, size = await self.reader.readexactly(2)
        if size == 126:
            (size,) = struct.unpack("!H", await self.reader.readexactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
        return first & 15, await self.reader.readexactly(size)

    async def read_close(self) -> int:
        """Return the code of the close frame; other frames are dropped."""
        while True:
            opcode, data = await self.read_frame()
            if opcode == 8:
                return int.from_bytes(data[:2], "big")


@asynccontextmanager
async def raw(
    service: Running, path: str = "/v1/sessions/a/stream", *lines: str
) -> AsyncIterator[RawClient]:
    """Open a stream over a plain socket."""
    client = RawClient(*await asyncio.open_connection(*service.address))
    try:
        await client.send(handshake(path, *lines))
        assert b" 101 " in await client.read_header()
        yield client
    finally:
        client.writer.close()
