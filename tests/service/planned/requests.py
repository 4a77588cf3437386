"""Requests as bytes, their answers by the library alone, and a client that reads answers."""

import asyncio
import random
import re
import ssl
from collections.abc import Iterable
from typing import NamedTuple

import torch

from rope_core import Attend, AttentionConfig, RopeConfig, Rotate, attend, rotate
from service.wire import Message, Parameters, safetensors_codec
from tests.service.planned.servers import Running

ROPE = RopeConfig.of(64)
PARAMS = Parameters.of({"rope": {"theta": 10_000}})
VARYING = re.compile(
    rb"(?m)^(date|x-request-id|server-timing): [^\r]*\r\n", re.IGNORECASE
)  # differ between two answers to one request


class Exchange(NamedTuple):
    """A request, and the body of its answer."""

    request: bytes
    body: bytes


class Answer(NamedTuple):
    """What a client reads of an answer."""

    status: int
    header: bytes
    body: bytes

    @property
    def fields(self) -> dict[str, str]:
        lines = self.header.decode().split("\r\n")[1:]
        return dict(line.split(": ", 1) for line in lines if line)

    @property
    def lasting(self) -> tuple[int, bytes, bytes]:
        """What is equal in all answers to a request."""
        return self.status, VARYING.sub(b"", self.header), self.body


def post(path: str, body: bytes, **fields: str) -> bytes:
    """Return a request; names of fields have underscores for hyphens."""
    kind = {"host": "x", "content_type": safetensors_codec.media_type}
    named = {**kind, **fields, "content_length": str(len(body))}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in named.items()]
    return "\r\n".join([f"POST {path} HTTP/1.1", *lines, "", ""]).encode() + body


def encode(tensors: dict[str, torch.Tensor], params: Parameters = PARAMS) -> bytes:
    return b"".join(safetensors_codec.encode(Message(tensors, params)))


def rotation(length: int, seed: int = 0, **fields: str) -> Exchange:
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(1, length, 8, 64, generator=generator)
    positions = torch.randint(200, (1, length), generator=generator)
    result = rotate(Rotate(q, None, ROPE, positions))
    body = encode({"q": q, "positions": positions})
    return Exchange(post("/v1/rotate", body, **fields), encode_answer({"q": result.q}))


def attention(length: int, seed: int = 0, **fields: str) -> Exchange:
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(1, length, 8, 64, generator=generator)
    k, v = (torch.randn(1, length, 2, 64, generator=generator) for _ in range(2))
    positions = torch.arange(length)[None] + seed % 50
    call = Attend(q, k, v, ROPE, AttentionConfig(), positions, positions)
    body = encode({"q": q, "k": k, "v": v, "positions": positions})
    return Exchange(post("/v1/attention", body, **fields), encode_answer({"out": attend(call).out}))


def encode_answer(tensors: dict[str, torch.Tensor]) -> bytes:
    return b"".join(safetensors_codec.encode(Message(tensors)))


def know(service: Running, exchanges: Iterable[Exchange]) -> None:
    """Let a service see headers for the first time, so that requests with them have plans."""
    for exchange in exchanges:
        service.planned.planner.match(exchange.request)


def any_exchange(rng: random.Random) -> Exchange:
    make = rng.choice((rotation, rotation, attention))
    return make(rng.randint(1, 300), rng.randrange(1000))


class Client:
    """A client of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(
        cls,
        address: tuple[str, int],
        limit: int = 2**24,
        tls: ssl.SSLContext | None = None,
    ) -> "Client":
        host, port = address
        name = None if tls is None else "localhost"
        return cls(
            *await asyncio.open_connection(host, port, limit=limit, ssl=tls, server_hostname=name)
        )

    @classmethod
    async def connect_unix(cls, path: str, limit: int = 2**24) -> "Client":
        return cls(*await asyncio.open_unix_connection(path, limit=limit))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def read(self) -> Answer:
        """Return the next answer."""
        header = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", header)
        assert length is not None, header
        body = await self.reader.readexactly(int(length[1]))
        return Answer(int(header.split(b" ", 2)[1]), header, body)

    async def ask(self, request: bytes) -> Answer:
        await self.send(request)
        return await self.read()

    def leave(self) -> None:
        """Close the connection."""
        self.writer.close()

    def reset(self) -> None:
        """Close the connection with a reset."""
        self.writer.transport.abort()
