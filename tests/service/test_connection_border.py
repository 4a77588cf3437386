"""What the service does at the border of a connection, as bytes over real sockets.

Names such as S01 are those of rows of `tests/attacks/table.py`, which has the requests that need
one connection and no time.
"""

import json
import re
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from tests.attacks.requests import (
    CHUNKED,
    JSON,
    ROTATE,
    SAFETENSORS,
    TEN_GIB,
    header,
    post,
)
from tests.attacks.sockets import LAST, connect, exchange, read_all, read_answer, split
from tests.conftest import Serve, Started
from tests.free_ports import free_port
from tests.service.test_lifecycle import metric
from tests.waiting import wait_until


def test_the_errors_of_v2_have_its_form(server: Started):
    path = "/v2/models/rope/infer"
    for request, status in (
        (post(b"{}", "Host: y", path=path), 400),
        (post(b"{}", "X: " + "a" * 2**16, path=path), 431),
        (header(JSON, CHUNKED, path=path) + b"x\r\n", 400),
        (header(f"Content-Length: {TEN_GIB}", path=path), 413),
    ):
        (answer,) = exchange(server, request + LAST)
        assert answer.status == status
        assert answer.headers["connection"] == "close"
        assert list(json.loads(answer.body)) == ["error"]


def test_a_refusal_waits_for_its_turn(server: Started):
    good, refused = exchange(server, post(ROTATE) + post(ROTATE, host="") + LAST)
    assert (good.status, refused.status) == (200, 400)


def test_pipelined_requests_are_answered_in_order(server: Started):
    """F31."""
    ask = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    answers = exchange(server, ask * 50 + post(ROTATE) + ask * 50 + LAST)
    assert [answer.status for answer in answers] == [200] * 101 + [404]
    assert b'"q"' in answers[50].body


def test_half_a_body_and_the_end_close_the_connection(server: Started):
    """F26."""
    with connect(server) as connection:
        connection.sendall(post(ROTATE)[:-5])
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection) == b""


def test_clients_that_leave_give_their_memory_back(server: Started):
    """X02."""
    for media_type in (JSON, SAFETENSORS):
        for _ in range(25):
            with connect(server) as connection:
                connection.sendall(header(media_type, "Content-Length: 100000") + bytes(5000))
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    wait_until(lambda: admitted_bytes(server) == 0)


def test_refusals_are_counted_and_logged(server: Started):
    def counts() -> list[float]:
        routes = ("other", "/v1/rotate")
        return [
            metric(server.url, f'rope_requests_total{{route="{route}",status="400"}}')
            for route in routes
        ]

    before = counts()
    (first,) = exchange(server, b"hello\r\n\r\n")
    exchange(server, post(ROTATE, "X-Request-Id: mine", host=""))
    assert counts() == [count + 1 for count in before]
    (unread,) = server.requests_logged(first.headers["x-request-id"])
    (mine,) = server.requests_logged("mine")
    assert (unread["method"], unread["path"], unread["status"]) == ("-", "", 400)
    assert (mine["method"], mine["path"], mine["status"]) == ("POST", "/v1/rotate", 400)


def test_a_client_that_sends_first_reads_the_answer(server: Started):
    """The service reads on after its answer: to close would reset the connection."""
    size = 2**24 + 1
    (answer,) = exchange(server, header(JSON, f"Content-Length: {size}"), bytes(size))
    assert answer.status == 413


def test_no_continue_where_the_answer_is_known(server: Started):
    waits = "Expect: 100-continue"
    with connect(server) as connection:
        connection.sendall(header(JSON, f"Content-Length: {TEN_GIB}", waits))
        assert read_all(connection).startswith(b"HTTP/1.1 413 ")
    with connect(server) as connection:
        connection.sendall(
            header(JSON, f"Content-Length: {len(ROTATE)}", waits, "Connection: close")
        )
        go_on = b"HTTP/1.1 100 Continue\r\n\r\n"
        assert connection.recv(len(go_on)) == go_on
        connection.sendall(ROTATE)
        assert read_all(connection).startswith(b"HTTP/1.1 200 ")


def test_a_short_rest_of_a_body_does_not_close_the_connection(server: Started):
    """A client that sends header and body apart keeps its connection when a route is not found."""
    with connect(server) as connection:
        connection.sendall(header("Content-Length: 9", path="/nowhere"))
        assert read_answer(connection).status == 404
        connection.sendall(b"123456789" + post(ROTATE, "Connection: close"))
        assert [answer.status for answer in split(read_all(connection))] == [200]


SLOW = {
    "ROPE_HEADER_TIMEOUT_S": "0.5",
    "ROPE_BODY_GRACE_S": "0.5",
    "ROPE_KEEP_ALIVE_S": "0.75",
    "ROPE_WRITE_STALL_S": "1",
    "ROPE_MAX_CONNECTIONS": "8",
}


STATUS_PORT = free_port()


@pytest.fixture(scope="module")
def impatient(serve: Serve) -> Iterator[Started]:
    """A service whose deadlines are short."""
    with serve(**SLOW, ROPE_STATUS_PORT=str(STATUS_PORT)) as started:
        yield started


def drip(connection: socket.socket, pieces: Iterator[bytes]) -> bytes:
    """Send a piece as often as the service is silent for 50 ms; return what it answers."""
    received = b""
    while True:
        readable, _, _ = select.select([connection], [], [], 0.05)
        if readable:
            part = connection.recv(2**16)
            if not part:
                return received
            received += part
        elif not received:
            connection.sendall(next(pieces))


def repeat(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece


def admitted_bytes(started: Started) -> float:
    return metric(started.url, "rope_admitted_bytes")


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (header()[:-2], b"A: b\r\n"),
        (b"POST /v1/ro", b""),
        (b"POST /v1/ro", b"t"),
        (header(JSON, "Content-Length: 100000"), b"  "),
        (header(JSON, CHUNKED), b"1\r\n \r\n"),
        (header(SAFETENSORS, "Content-Length: 100000"), b"\0\0"),
    ],
    ids=["S01", "S04", "S04 dripped", "S02", "S02 chunked", "S02 safetensors"],
)
def test_a_slow_request_is_refused(impatient: Started, start: bytes, piece: bytes):
    with connect(impatient) as connection:
        connection.sendall(start)
        (answer,) = split(drip(connection, repeat(piece)))
    assert answer.status == 408
    assert json.loads(answer.body)["code"] == "slow_request"
    assert answer.headers["connection"] == "close"
    wait_until(lambda: admitted_bytes(impatient) == 0)


def test_a_slow_body_of_a_control_route_is_refused(impatient: Started):
    with connect(impatient) as connection:
        connection.sendall(header("Content-Length: 999", path="/v2/repository/index"))
        (answer,) = split(drip(connection, repeat(b" ")))
    assert answer.status == 408
    assert list(json.loads(answer.body)) == ["error"]


def test_a_slow_body_of_a_known_header_is_refused(impatient: Started):
    """A body that is received past the application."""
    tensors = {"q": {"dtype": "F32", "shape": [512, 1, 2], "data_offsets": [0, 4096]}}
    text = json.dumps(tensors).encode()
    body = struct.pack("<Q", len(text)) + text + bytes(4096)
    start = header(SAFETENSORS, f"Content-Length: {len(body)}")
    with connect(impatient) as connection:
        for _ in range(3):
            connection.sendall(start + body)
            assert read_answer(connection).status == 200
        connection.sendall(start + body[:-2000])
        (answer,) = split(drip(connection, repeat(b"\0")))
    assert answer.status == 408
    wait_until(lambda: admitted_bytes(impatient) == 0)


@pytest.mark.parametrize("request_", [b"", post(ROTATE)], ids=["S03", "after an answer"])
def test_an_idle_connection_is_closed(impatient: Started, request_: bytes):
    with connect(impatient) as connection:
        connection.sendall(request_)
        assert len(split(read_all(connection))) == bool(request_)


def test_an_answer_that_nobody_reads_is_dropped(impatient: Started):
    """S05, beside a client that reads slowly, which gets its answer."""
    params = {"positions": {"shape": [2**16], "dtype": "int64", "data": [0] * 2**16}}
    request = json.dumps({**params, "rope": {"head_dim": 128}}).encode()
    accept = "Accept: application/x-safetensors"
    with ExitStack() as stack:
        deaf, slow = (stack.enter_context(connect(impatient)) for _ in range(2))
        for connection in (deaf, slow):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
            connection.sendall(post(request, accept, "Connection: close", path="/v1/cos_sin"))
        text = slow.recv(2**12)
        assert text.startswith(b"HTTP/1.1 200 ")
        size = int(re.search(rb"content-length: (\d+)", text)[1])
        assert size > 2**25, "more than the kernel takes"
        started, num_bytes = time.monotonic(), len(text)
        while time.monotonic() < started + 3:  # three times what a deaf client gets
            select.select([], [], [], 0.1)
            num_bytes += len(slow.recv(2**16))
        num_bytes += len(read_all(slow))
        assert num_bytes == size + text.index(b"\r\n\r\n") + 4
        wait_until(lambda: admitted_bytes(impatient) == 0)
        with pytest.raises(ConnectionResetError):
            read_all(deaf)


def test_an_answer_of_a_known_header_that_nobody_reads_is_dropped(impatient: Started):
    tensors = {"q": {"dtype": "F32", "shape": [2**16, 1, 64], "data_offsets": [0, 2**24]}}
    text = json.dumps(tensors).encode()
    body = struct.pack("<Q", len(text)) + text + bytes(2**24)
    request = header(SAFETENSORS, f"Content-Length: {len(body)}") + body
    with connect(impatient) as connection:
        for _ in range(2):
            connection.sendall(request)
            assert read_answer(connection).status == 200
    with connect(impatient) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        deaf.sendall(request)
        assert deaf.recv(2**12).startswith(b"HTTP/1.1 200 ")
        assert admitted_bytes(impatient) > 2**24
        wait_until(lambda: admitted_bytes(impatient) == 0)
        with pytest.raises(ConnectionResetError):
            read_all(deaf)


def test_the_status_port_serves_the_status_routes_only(impatient: Started):
    """It is there while the other port has no connection left."""
    with ExitStack() as stack:
        for _ in range(8 + 16):
            client = stack.enter_context(connect(impatient))
            client.sendall(header(SAFETENSORS, "Content-Length: 99", "Expect: 100-continue"))
        status_port = f"http://127.0.0.1:{STATUS_PORT}"
        for path in ("/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"):
            assert httpx.get(status_port + path).status_code == 200
        refused = httpx.post(status_port + "/v1/rotate", json={"q": [[[1, 0]]]})
        assert (refused.status_code, refused.json()["code"]) == (400, "bad_request")
        assert httpx.get(status_port + "/v1/presets").status_code == 400


def test_connections_beyond_the_limit_get_the_status_only(impatient: Started):
    ask = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with ExitStack() as stack:
        for _ in range(8):  # clients that hold their connection by a request that never ends
            client = stack.enter_context(connect(impatient))
            client.sendall(header(SAFETENSORS, "Content-Length: 99", "Expect: 100-continue"))
            assert client.recv(99).startswith(b"HTTP/1.1 100 ")
        (status,) = exchange(impatient, ask)
        (refused,) = exchange(impatient, post(ROTATE))
        assert (status.status, refused.status) == (200, 503)
        assert refused.headers["retry-after"] == "1"
        assert refused.headers["connection"] == "close"
        many = [stack.enter_context(connect(impatient)) for _ in range(32)]
        closed, _, _ = select.select(many, [], [], 5)
        assert closed
    wait_until(lambda: exchange(impatient, post(ROTATE, "Connection: close"))[0].status == 200)
