"""Half-closed and closed clients are distinguished where the kernel allows."""

import asyncio
import socket
from contextlib import ExitStack

import pytest
import uvicorn
import uvloop
from uvicorn.server import ServerState

from service.batching.load_estimate import LoadEstimate
from service.server.asgi_protocol import AsgiProtocol
from service.server.connection_limits import connection_limits
from service.server.half_close import Peer, peer_after_eof
from service.settings import Settings
from tests.service.test_closing import received, until


def pair(stack: ExitStack, family: socket.AddressFamily) -> tuple[socket.socket, socket.socket]:
    """Return the client's and the server's socket of a connection."""
    if family is socket.AF_UNIX:
        both = socket.socketpair()
        return stack.enter_context(both[0]), stack.enter_context(both[1])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = stack.enter_context(socket.create_connection(listener.getsockname()))
        return client, stack.enter_context(listener.accept()[0])


@pytest.mark.parametrize(
    ("family", "after_half", "after_close"),
    [
        (socket.AF_UNIX, Peer.READS, Peer.LEFT),
        (socket.AF_INET, Peer.UNKNOWN, Peer.UNKNOWN),
    ],
)
def test_the_state_of_a_client_after_its_fin(family, after_half, after_close):
    with ExitStack() as stack:
        client, service = pair(stack, family)
        client.shutdown(socket.SHUT_WR)
        assert service.recv(1) == b""
        assert peer_after_eof(service) is after_half
        client.close()
        assert peer_after_eof(service) is after_close


class WaitingApp:
    """An application that waits, and watches for a disconnect."""

    def __init__(self) -> None:
        self.waits, self.goes_on = asyncio.Event(), asyncio.Event()
        self.saw_disconnect = False

    async def __call__(self, _scope, receive, send) -> None:
        assert not (await receive())["more_body"]
        watching = asyncio.create_task(receive())
        going_on = asyncio.create_task(self.goes_on.wait())
        self.waits.set()
        await asyncio.wait({watching, going_on}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            self.saw_disconnect = watching.result()["type"] == "http.disconnect"
            going_on.cancel()
            return
        watching.cancel()
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
        )
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.mark.parametrize(
    ("family", "closes", "is_answered"),
    [
        (socket.AF_UNIX, False, True),
        (socket.AF_UNIX, True, False),
        (socket.AF_INET, False, False),
        (socket.AF_INET, True, False),
    ],
)
def test_a_request_that_waits(family, closes, is_answered):
    async def run() -> None:
        app = WaitingApp()
        config = uvicorn.Config(app, interface="asgi3", lifespan="off", log_config=None)
        config.load()
        with ExitStack() as stack:
            client, service = pair(stack, family)
            state = ServerState()
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: AsgiProtocol(
                    connection_limits(Settings(), LoadEstimate(60)), config, state, {}
                ),
                service,
            )
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await app.waits.wait()
            if closes:
                client.close()
            else:
                client.shutdown(socket.SHUT_WR)
            await until(lambda: is_answered or app.saw_disconnect)
            app.goes_on.set()
            if not closes:
                answer = await received(client)
                assert answer.startswith(b"HTTP/1.1 200") == is_answered
            await until(lambda: not state.connections)

    uvloop.run(asyncio.wait_for(run(), 10))
