"""HTTP over a Unix-domain socket, beside that over TCP."""

import asyncio
import signal
import socket
import stat
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn
import uvloop

from rope_client import Client
from service import lifecycle as lifecycle_module
from service.batching.load_estimate import LoadEstimate
from service.lifecycle import Lifecycle
from service.server import asgi_protocol
from service.server.connection_limits import connection_limits
from service.server.unix_socket import UnixSocket
from service.server.uvicorn_server import Server
from service.settings import Settings
from tests.service.test_closing import REQUEST, received

ROTATE = {"q": [[[[1.0, 2.0]]]], "positions": [3]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rope.sock"


def client_of(path: Path) -> httpx.Client:
    return httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost")


def test_a_service_answers_on_both_sockets_and_removes_its_own_at_the_end(serve, path):
    variables = {"ROPE_UNIX_SOCKET": str(path), "ROPE_DRAIN_DELAY_S": "0"}
    with serve(**variables) as started, client_of(path) as beside:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        over_unix = beside.post("/v1/rotate", json=ROTATE)
        by_port = httpx.post(f"{started.url}/v1/rotate", json=ROTATE)
        assert over_unix.status_code == by_port.status_code == 200
        assert over_unix.content == by_port.content
        with Client(f"unix:{path}") as client:
            assert client.ready()
            q = np.arange(8, dtype=np.float32).reshape(1, 2, 1, 4)
            with Client(started.url) as over_tcp:
                for _ in range(3):  # the later ones are planned
                    rotated = client.rotate(q=q, positions=[0, 7]).q
                    assert rotated.tobytes() == over_tcp.rotate(q=q, positions=[0, 7]).q.tobytes()
        started.process.send_signal(signal.SIGTERM)
        assert started.process.wait(10) == 0
        assert not path.exists()


def test_the_socket_of_a_process_that_ended_is_replaced(path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    replacing = UnixSocket(path)
    with socket.socket(socket.AF_UNIX) as client, closing(replacing):
        with pytest.raises(ConnectionRefusedError):
            client.connect(str(path))  # its permissions are not known to be set before it listens
        replacing.socket.listen()
        client.connect(str(path))


def test_the_socket_of_a_running_process_stays(path):
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(path))
        alive.listen(0)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for client in clients:  # its queue is full in the end
            client.setblocking(False)
            client.connect_ex(str(path))
        with pytest.raises(OSError, match=f"cannot listen at {path}: another process listens"):
            UnixSocket(path)
        assert path.is_socket()
        for client in clients:
            client.close()


def test_a_file_that_is_no_socket_stays(path):
    path.write_text("precious")
    with pytest.raises(OSError, match=f"cannot listen at {path}: the file is not a socket"):
        UnixSocket(path)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("name", ["missing/rope.sock", "x" * 120])
def test_an_error_names_a_path_that_cannot_be_used(tmp_path, name):
    with pytest.raises(OSError, match=f"cannot listen at {tmp_path / name}: "):
        UnixSocket(tmp_path / name)


def test_only_a_socket_of_ones_own_is_removed(path):
    first = UnixSocket(path)
    path.unlink()
    path.write_text("of somebody else")
    first.remove()
    assert path.read_text() == "of somebody else"
    path.unlink()
    first.close()


def server_at(path: Path, **settings: object) -> Server:
    """Return a server that answers all requests with `ok`."""
    lifecycle = Lifecycle()

    async def answer(_scope, _receive, send) -> None:
        fields = [(b"connection", b"close")] if lifecycle.ending else []
        headers = [(b"content-length", b"2"), *fields]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})

    limits = connection_limits(Settings(), LoadEstimate(60))
    protocol = partial(asgi_protocol.AsgiProtocol, limits)
    options = {"interface": "asgi3", "ws": "none", "lifespan": "off", "log_config": None}
    config = uvicorn.Config(answer, http=protocol, **{"port": 0, **options, **settings})
    config.load()
    server = Server(
        config,
        lifecycle,
        pacer=limits.pacer,
        lifespan=nullcontext(),
        listeners=(),
        unix_socket=path,
        delay_s=0,
        drain_s=1,
    )
    server.lifespan = config.lifespan_class(config)
    return server


def test_a_connection_that_was_not_accepted_yet_is_served_at_the_end(path, monkeypatch):
    monkeypatch.setattr(lifecycle_module, "LAST_REQUESTS_S", 0)

    async def serving() -> None:
        server = server_at(path)
        await server.startup()
        clients = [socket.socket(socket.AF_UNIX) for _ in range(20)]
        for client in clients:
            client.connect(str(path))
            client.sendall(REQUEST)
        server._lifecycle.drain()
        ending = asyncio.create_task(server.shutdown())
        for client in clients:
            with client:
                assert (await received(client)).startswith(b"HTTP/1.1 200")
        await ending
        assert not path.exists()

    uvloop.run(asyncio.wait_for(serving(), 10))


def test_a_server_that_cannot_listen_says_where_and_leaves_nothing(path, caplog):
    path.write_text("")
    with pytest.raises(SystemExit):
        uvloop.run(server_at(path).serve())
    assert str(path) in caplog.text
    assert "ROPE_UNIX_SOCKET" in caplog.text


def test_the_socket_is_removed_where_the_port_is_taken(path):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit):
        uvloop.run(server_at(path, port=taken.getsockname()[1]).serve())
    assert not path.exists()
