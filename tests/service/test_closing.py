"""The listener and the connections close without losing a request that has come.

Clients are blocking sockets in the thread of the event loop: what they do between two awaits, the
kernel has done and the server has not seen.
"""

import asyncio
import select
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from functools import partial

import pytest
import uvicorn
import uvloop

from service import lifecycle as lifecycle_module
from service.batching.load_estimate import LoadEstimate
from service.lifecycle import Lifecycle
from service.server import asgi_protocol
from service.server.connection_draining import stop_handshakes
from service.server.connection_limits import connection_limits
from service.server.uvicorn_server import Server
from service.settings import Settings

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


async def until(condition: Callable[[], object]) -> None:
    """Let the event loop turn until a condition holds."""
    while not condition():  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0)


class Served:
    """A server in this event loop, and its clients."""

    def __init__(self, **settings: float) -> None:
        self.lifecycle = Lifecycle()
        limits = connection_limits(Settings(**settings), LoadEstimate(60))
        config = uvicorn.Config(
            self._answer,
            port=0,
            interface="asgi3",
            http=partial(asgi_protocol.AsgiProtocol, limits),
            ws="none",
            lifespan="off",
            log_config=None,
        )
        config.load()
        self.server = Server(
            config,
            self.lifecycle,
            pacer=limits.pacer,
            lifespan=nullcontext(),
            listeners=(),
            delay_s=0,
            drain_s=1,
        )
        self.server.lifespan = config.lifespan_class(config)

    async def _answer(self, _scope, _receive, send) -> None:
        closing = [(b"connection", b"close")] if self.lifecycle.ending else []
        headers = [(b"content-length", b"2"), *closing]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})

    @property
    def address(self):
        return self.listener.getsockname()

    @property
    def listener(self):
        return self.server.servers[0].sockets[0]

    async def connected(self):
        """Return a client, and the server's side of its connection."""
        client = socket.create_connection(self.address)
        await until(lambda: self.server.server_state.connections)
        (connection,) = self.server.server_state.connections
        return client, connection


@asynccontextmanager
async def served(**settings: float) -> AsyncIterator[Served]:
    made = Served(**settings)
    await made.server.startup()
    try:
        yield made
    finally:
        made.lifecycle.drain()
        await made.server.shutdown()


@asynccontextmanager
async def kept_alive(made: Served):
    """Yield a client that got one answer, and the server's side of its connection."""
    client, connection = await made.connected()
    with client:
        client.sendall(REQUEST)
        assert await received(client, until_closed=False)
        yield client, connection


async def received(client: socket.socket, *, until_closed: bool = True) -> bytes:
    """Return what the server sends until it closes, or until the end of an answer."""
    client.setblocking(False)
    data = b""
    while part := await asyncio.get_running_loop().sock_recv(client, 4096):
        data += part
        if data.endswith(b"ok") and not until_closed:
            break
    client.setblocking(True)
    return data


def on_uvloop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Run a test as the service runs."""

    def run(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lifecycle_module, "LAST_REQUESTS_S", 0)
        uvloop.run(asyncio.wait_for(test(), 10))

    run.__name__ = test.__name__
    return run


@on_uvloop
async def test_a_connection_that_was_not_accepted_yet_is_served():
    async with served() as made:
        clients = [socket.create_connection(made.address) for _ in range(20)]
        for client in clients:
            client.sendall(REQUEST)
        made.lifecycle.drain()
        closing = asyncio.create_task(made.server.shutdown())
        for client in clients:
            with client:
                assert (await received(client)).startswith(b"HTTP/1.1 200")
        await closing


@on_uvloop
async def test_no_handshake_ends_once_they_are_stopped():
    async with served() as made:
        before, after = socket.create_connection(made.address), socket.socket()
        stop_handshakes(made.listener)
        with before, after:
            after.setblocking(False)
            with pytest.raises(BlockingIOError):
                after.connect(made.address)
            before.sendall(REQUEST)
            assert await received(before, until_closed=False), "who is connected is served"
            with pytest.raises(OSError, match="not connected"):
                after.getpeername()


@on_uvloop
async def test_a_request_that_was_not_read_yet_is_answered():
    async with served() as made, kept_alive(made) as (client, connection):
        made.lifecycle.drain()
        client.sendall(REQUEST)
        connection.shutdown()
        assert (await received(client)).startswith(b"HTTP/1.1 200")


@on_uvloop
async def test_a_request_whose_head_was_half_read_is_answered():
    async with served() as made, kept_alive(made) as (client, connection):
        client.sendall(REQUEST[:9])
        await until(lambda: not connection.is_free)
        made.lifecycle.drain()
        connection.shutdown()
        client.sendall(REQUEST[9:])
        assert (await received(client)).startswith(b"HTTP/1.1 200")


@on_uvloop
async def test_a_connection_without_a_request_is_closed():
    async with served() as made, kept_alive(made) as (client, connection):
        made.lifecycle.drain()
        connection.shutdown()
        assert await received(client) == b""


@on_uvloop
async def test_a_client_knows_at_once_that_its_connection_is_closed():
    """The FIN arrives at once, so the client opens another connection for its next request."""
    async with served() as made, kept_alive(made) as (client, connection):
        made.lifecycle.drain()
        connection.shutdown()
        assert select.select([client], [], [], 0)[0], "told before the event loop turns"
        client.sendall(REQUEST)
        assert await received(client) == b""


@on_uvloop
async def test_a_client_that_has_just_connected_can_send_a_request():
    async with served() as made:
        client, connection = await made.connected()
        with client:
            made.lifecycle.drain()
            connection.shutdown()
            await asyncio.sleep(0)
            client.sendall(REQUEST)
            assert (await received(client)).startswith(b"HTTP/1.1 200")


@on_uvloop
async def test_a_client_that_has_just_connected_and_sends_nothing_is_disconnected():
    """The connection closes at the deadline of the header, not earlier."""
    async with served(header_timeout_s=0.1) as made:
        client, connection = await made.connected()
        with client:
            made.lifecycle.drain()
            connection.shutdown()
            connected = connection.pending().since
            assert await received(client) == b""
            assert asyncio.get_running_loop().time() >= connected + 0.1
