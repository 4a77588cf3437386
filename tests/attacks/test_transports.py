"""Rows over TLS, a Unix-domain socket and the status port, of a service that needs keys."""

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from tests.attacks import encodings, framing, limits, methods
from tests.attacks.requests import JSON, MAX_JSON_BYTES, ROTATE, Row, get, header, post
from tests.attacks.sockets import Answer, read_all, split
from tests.conftest import Serve
from tests.free_ports import free_ports
from tests.service.access.keys_files import ADMIN, METRICS, write_all
from tests.service.certificates import Authority

AUTHORIZATION = f"Authorization: Bearer {ADMIN}"
OF_METRICS = f"Authorization: Bearer {METRICS}"
REQUEST_LINE = re.compile(rb"(\r\n)*[A-Z]+ [^\r\n]* HTTP/1\.[01]\r\n")
LAST = get("/behind", "Connection: close", AUTHORIZATION)

FULL = "L04 100 fields"
"""Has no place for the field with the key."""

NAMED = "F32 not allowed"
"""The name in Host is not checked on a Unix-domain socket."""

ROWS = {
    row.id: row
    for section in (framing, limits, encodings, methods)
    for row in section.ROWS
    if row.id not in (FULL, NAMED)
}
SLOW = {
    "S01": header(JSON)[:-2],
    "S02": header(JSON, "Content-Length: 9", AUTHORIZATION),
    "S04": b"POST /v1/ro",
}
STATUS_ROUTE = re.compile(rb"[A-Z]+ +/(healthz|readyz|metrics) ")


class Transports(NamedTuple):
    """The sockets of a service: functions that connect, and connections with slow requests."""

    by_name: dict[str, Callable[[], socket.socket]]
    slow: dict[str, socket.socket]


@pytest.fixture(scope="module")
def transports(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Transports]:
    folder = tmp_path_factory.mktemp("transports")
    authority = Authority(folder)
    files, path, (status_port,) = authority.issue("server"), folder / "socket", free_ports(1)
    variables = {
        "TLS_CERT_FILE": files.certificate,
        "TLS_KEY_FILE": files.key,
        "KEYS_FILE": write_all(folder / "keys.toml"),
        "UNIX_SOCKET": path,
        "STATUS_PORT": status_port,
        "MAX_JSON_BYTES": MAX_JSON_BYTES,
        "HEADER_TIMEOUT_S": 3,
        "BODY_GRACE_S": 3,
    }
    context = authority.client_context()
    environment = {f"ROPE_{name}": str(value) for name, value in variables.items()}
    with serve(tls=context, **environment) as started, ExitStack() as stack:

        def tcp(port: int) -> socket.socket:
            connection = socket.create_connection(("127.0.0.1", port), timeout=30)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection

        def tls() -> socket.socket:
            port = int(started.url.rpartition(":")[2])
            return context.wrap_socket(tcp(port), server_hostname="localhost")

        def unix() -> socket.socket:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(30)
            connection.connect(str(path))
            return connection

        by_name = {"TLS": tls, "unix": unix, "status": lambda: tcp(status_port)}
        slow = {}
        for name, connect in by_name.items():
            for id_, start in SLOW.items():
                if (name, id_) != ("status", "S02"):  # refused at once
                    connection = slow[f"{name} {id_}"] = stack.enter_context(connect())
                    connection.sendall(start)
        yield Transports(by_name, slow)


def exchange(
    connect: Callable[[], socket.socket], request: bytes, half_close: bool = False
) -> list[Answer]:
    """Send bytes, then return all answers until the service closes the connection."""
    with connect() as connection:
        connection.sendall(request)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        return split(read_all(connection))


def with_key(row: Row) -> bytes:
    """Return the request of a row with a key, if it has a request line."""
    request = row.request if isinstance(row.request, bytes) else row.request()
    line = REQUEST_LINE.match(request)
    if not line:
        return request
    key = OF_METRICS if b" /v1/recent" in line[0] else AUTHORIZATION
    return request[: line.end()] + f"{key}\r\n".encode() + request[line.end() :]


@pytest.mark.parametrize("name", ["TLS", "unix"])
def test_rows_have_the_same_answers(transports: Transports, name: str):
    connect = transports.by_name[name]
    expected = {row.id: [row.status] if row.closes else [row.status, 404] for row in ROWS.values()}
    answered = {
        row.id: [answer.status for answer in exchange(connect, with_key(row) + LAST)]
        for row in ROWS.values()
    }
    assert answered == expected


@pytest.mark.parametrize("name", ["TLS", "unix"])
def test_rows_without_a_key_are_refused(transports: Transports, name: str):
    """Those that are not valid HTTP have their own status."""
    connect = transports.by_name[name]
    for row in ROWS.values():
        request = row.request if isinstance(row.request, bytes) else row.request()
        first = exchange(connect, request + LAST)[0]
        if first.status != row.status:
            assert first.status == 401, row.id
            assert first.headers["www-authenticate"] == "Bearer"
        else:
            assert row.closes or STATUS_ROUTE.match(request) or row.status == 404, row.id


def test_rows_on_the_status_port(transports: Transports):
    connect = transports.by_name["status"]
    for row in ROWS.values():
        request = row.request if isinstance(row.request, bytes) else row.request()
        first, *rest = exchange(connect, request + LAST)
        if STATUS_ROUTE.match(request):
            assert first.status == row.status, row.id
        else:
            assert first.status in (400, 414, 417, 431), row.id
            assert (first.headers["connection"], rest) == ("close", []), row.id


@pytest.mark.parametrize("name", ["TLS", "unix", "status"])
def test_a_half_closed_client_gets_its_answers(transports: Transports, name: str):
    """F26, F31."""
    connect = transports.by_name[name]
    health = get("/healthz")
    good = [health] if name == "status" else [health, post(ROTATE, AUTHORIZATION)]
    half_close = name != "TLS"  # whose end is that of the connection
    for request in good:
        last = b"" if half_close else LAST
        answers = exchange(connect, request * 3 + last, half_close)
        assert [answer.status for answer in answers[:3]] == [200] * 3
        if half_close:
            for end in (1, len(request) - 1):
                answers = exchange(connect, request * 2 + request[:end], half_close)
                assert [answer.status for answer in answers] == [200] * 2


def test_slow_requests(transports: Transports):
    """S01, S02, S04. Must be the last test of this file: the requests are slow since its start."""
    for name, connection in transports.slow.items():
        (answer,) = split(read_all(connection))
        assert (answer.status, answer.headers["connection"]) == (408, "close"), name
