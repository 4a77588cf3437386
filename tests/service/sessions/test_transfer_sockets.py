"""Exports and imports over sockets: clients that stop, leave, or take their time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import torch

from rope_core.kvcache.arena import Arena
from service.sessions.handler import SessionHandler
from tests.service.planned.servers import Running, running, until
from tests.service.sessions.http_sessions import SAFETENSORS, HttpSessions, kv, qkv

NUM_TOKENS = 2**17
"""16 MiB of keys and values, more than the buffers of a connection."""


class Service:
    """A service behind a socket, and one session of many tokens."""

    def __init__(self, service: Running, http: HttpSessions) -> None:
        self.service = service
        self.http = http
        self.session = ""

    @property
    def handler(self) -> SessionHandler:
        app: Any = self.service.server.config.app
        return app.sessions._handler

    @property
    def arena(self) -> Arena:
        arena = self.handler.services.arena
        assert arena is not None
        return arena

    @property
    def usage(self) -> tuple[int, int, int]:
        return self.arena.used_bytes, self.arena.reserved_bytes, self.service.charged_bytes

    async def export(self) -> bytes:
        path = f"/v1/sessions/{self.session}/export"
        return (await self.http.client.get(path)).content

    @asynccontextmanager
    async def begun_export(self) -> AsyncIterator[tuple[asyncio.StreamReader, bytes]]:
        """Ask for an export, read the first bytes of its body, and no more for now."""
        reader, writer = await asyncio.open_connection(*self.service.address, limit=2**12)
        path = f"/v1/sessions/{self.session}/export"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        try:
            await reader.readuntil(b"\r\n\r\n")
            first = await reader.readexactly(1000)
            yield reader, first
        finally:
            writer.transport.abort()

    @asynccontextmanager
    async def begun_import(
        self, body: bytes, sent: int
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection(*self.service.address)
        fields = f"Host: x\r\nContent-Type: {SAFETENSORS}\r\nContent-Length: {len(body)}"
        writer.write(f"POST /v1/sessions?name=late HTTP/1.1\r\n{fields}\r\n\r\n".encode())
        writer.write(body[:sent])
        await writer.drain()
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[Service]:
    sizes = {"kv_bytes": 2**26, "kv_page_tokens": 64, "max_body_bytes": 2**25}
    async with running(protocol="ordinary", **sizes, **settings) as service:
        host, port = service.address
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}") as client:
            made = Service(service, HttpSessions(client))
            made.session = await made.http.new()
            await made.http.ok(made.session, "append", kv(NUM_TOKENS))
            yield made


async def test_a_client_that_stops_reading_is_reset():
    async with serving(write_stall_s=0.3) as service, service.begun_export():
        assert service.service.charged_bytes
        await service.http.ok(service.session, "step", qkv(1))  # the session goes on
        await service.http.client.delete(f"/v1/sessions/{service.session}")
        assert service.arena.used_bytes >= 2**24
        await until(lambda: service.usage == (0, 0, 0))


async def test_a_session_that_is_deleted_while_it_is_exported():
    async with serving() as service:
        expected = await service.export()
        async with service.begun_export() as (reader, first):
            await service.http.ok(service.session, "append", kv(1))
            await service.http.client.delete(f"/v1/sessions/{service.session}")
            rest = await reader.readexactly(len(expected) - len(first))
        assert first + rest == expected
        await until(lambda: service.usage == (0, 0, 0))


async def test_a_client_that_leaves_an_export():
    async with serving() as service:
        used, reserved, _ = service.usage
        async with service.begun_export():
            pass
        await until(lambda: service.usage == (used, reserved, 0))


async def test_a_client_that_leaves_an_import():
    async with serving() as service:
        body = await service.export()
        before = service.usage
        for sent in (100, 2**19 + 5000, len(body) // 2, len(body) - 1):
            async with service.begun_import(body, sent):
                if sent > 2**20:
                    await until(lambda: service.arena.used_bytes > before[0])
            await until(lambda: service.usage == before)
            assert len(service.handler.services.registry) == 1


async def test_an_import_appears_when_it_is_whole():
    async with serving() as service:
        body = await service.export()
        used = service.arena.used_bytes
        async with service.begun_import(body, len(body) - 7) as (reader, writer):
            await until(lambda: service.arena.used_bytes == 2 * used)
            listed = await service.http.client.get("/v1/sessions")
            assert [each["id"] for each in listed.json()["sessions"]] == [service.session]
            writer.write(body[-7:])
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 201 ")
        listed = await service.http.client.get("/v1/sessions?name=late")
        (copy,) = listed.json()["sessions"]
        answers = [
            await service.http.ok(each, "step", qkv(1)) for each in (service.session, copy["id"])
        ]
        assert torch.equal(answers[0]["out"], answers[1]["out"])
