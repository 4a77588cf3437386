"""What the service does at the border of a connection, as bytes over real sockets.

The rows have the names of the project's table of attacks: F framing, L limits, S slowness.
"""

import json
import re
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import httpx
import pytest

from tests.conftest import Serve, Started
from tests.waiting import wait_until

ROTATE = b'{"q": [[[1, 0]], [[1, 0]]], "positions": [0, 1]}'
CHUNKED = "Transfer-Encoding: chunked"
JSON = "Content-Type: application/json"
SAFETENSORS = "Content-Type: application/x-safetensors"
TEN_GIB = 10 * 2**30


def header(*lines: str, path: str = "/v1/rotate", host: str = "Host: x", version: str = "1.1"):
    """Return the header of a POST."""
    return "\r\n".join(
        [f"POST {path} HTTP/{version}", *filter(None, [host]), *lines, "", ""]
    ).encode()


def post(body: bytes, *lines: str, **parts: str) -> bytes:
    """Return a POST of JSON with a declared length."""
    return header(JSON, f"Content-Length: {len(body)}", *lines, **parts) + body


def chunks(*parts: bytes, trailer: bytes = b"") -> bytes:
    """Return a body in chunks."""
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return body + b"0\r\n" + trailer + b"\r\n"


class Row(NamedTuple):
    """A request, and the status and the code of its answer."""

    name: str
    request: bytes
    status: int
    code: str = ""
    closes: bool = True
    """Whether the connection ends behind the answer, so that nothing behind it is run."""


ROWS = [
    Row("F01", header("Content-Length: 5", CHUNKED) + chunks(b"a"), 400, "bad_request"),
    Row("F02", header(CHUNKED, "Content-Length: 5") + chunks(b"a"), 400, "bad_request"),
    Row("F03", header("Content-Length: 5", "Content-Length: 6") + b"hello", 400, "bad_request"),
    Row("F04", header("Content-Length: +5") + b"hello", 400, "bad_request"),
    Row("F05", header("Content-Length: -1"), 400, "bad_request"),
    Row("F06", header("Content-Length: 0x5") + b"hello", 400, "bad_request"),
    Row("F07", header(f"Content-Length: {2**64 + 5}") + b"hello", 400, "bad_request"),
    Row("F08", header("Transfer-Encoding: xchunked") + chunks(b"a"), 400, "bad_request"),
    Row("F09", header("Transfer-Encoding: chunked, identity"), 400, "bad_request"),
    Row("F09 gzip", header("Transfer-Encoding: gzip, chunked"), 400, "bad_header"),
    Row("F10", header("Transfer-Encoding : chunked") + chunks(b"a"), 400, "bad_request"),
    Row("F11", header("Transfer-Encoding:\r\n chunked") + chunks(b"a"), 400, "bad_request"),
    Row("F12", header(CHUNKED, JSON) + b"-1\r\n", 400, "bad_request"),
    Row("F13", header(CHUNKED, JSON) + b"0x1\r\na\r\n", 400, "bad_request"),
    Row("F14", header(CHUNKED, JSON) + b"1" * 17 + b"\r\na", 400, "bad_request"),
    Row("F15", header(CHUNKED, JSON) + b"1\r\nab\r\n0\r\n\r\n", 400, "bad_request"),
    Row("F16", header(CHUNKED, JSON) + b"1\na\n0\n\n", 400, "bad_request"),
    Row("F17", header(CHUNKED, JSON, version="1.0") + chunks(ROTATE), 400, "bad_header"),
    Row("F18", post(ROTATE, host=""), 400, "bad_header"),
    Row("F18 HTTP/1.0", post(ROTATE, host="", version="1.0"), 200),
    Row("F19", post(ROTATE, "Host: y"), 400, "bad_header"),
    Row("F19 equal", post(ROTATE, "Host: x"), 400, "bad_header"),
    Row("F20", post(ROTATE, host="Host: x/healthz?"), 400, "bad_header"),
    Row("F20 user", post(ROTATE, host="Host: user@x"), 400, "bad_header"),
    Row("F20 port", post(ROTATE, host="Host: x:http"), 400, "bad_header"),
    Row("F20 space", post(ROTATE, host="Host: x y"), 400, "bad_header"),
    Row("F20 name", post(ROTATE, host="Host: a-b.example:8000"), 200, closes=False),
    Row("F20 IPv6", post(ROTATE, host="Host: [::1]:8000"), 200, closes=False),
    Row("F20 empty", post(ROTATE, host="Host:"), 200, closes=False),
    Row("F21", post(ROTATE, "X: a\0b"), 400, "bad_request"),
    Row("F22", post(ROTATE, "X: a\rb"), 400, "bad_request"),
    Row("F23", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(64), 400, "bad_request"),
    Row("F23 version", b"GET /healthz HTTP/2.0\r\nHost: x\r\n\r\n", 400, "bad_request"),
    Row("F24", bytes.fromhex("16030100c8010000c40303") + bytes(range(200)), 400, "bad_request"),
    Row("F25", bytes(range(128, 256)) * 8, 400, "bad_request"),
    Row("F27", header(CHUNKED, JSON) + chunks(*[b" "] * 100_001), 400, "bad_request"),
    Row("F28", header(CHUNKED, JSON) + b"1;" + b"x" * 2**20 + b"\r\na\r\n", 400, "bad_request"),
    Row(
        "F29",
        header(CHUNKED, JSON) + chunks(ROTATE, trailer=b"X: " + b"a" * 2**20 + b"\r\n"),
        400,
        "bad_request",
    ),
    Row(
        "F30",
        header(CHUNKED) + chunks(ROTATE, trailer=b"Content-Type: application/json\r\n"),
        415,
        "unsupported_media_type",
        closes=False,
    ),
    Row("F30 kept", header(CHUNKED, JSON) + chunks(ROTATE, trailer=b"A: b\r\n"), 200, closes=False),
    Row(
        "F30 folded", header(CHUNKED, JSON) + chunks(trailer=b"A: b\r\n c\r\n"), 400, "bad_request"
    ),
    Row("L01", post(ROTATE, path="/" + "a" * 100 * 2**10), 414, "target_too_long"),
    Row("L01 9 KiB", post(ROTATE, path="/" + "a" * 9 * 2**10), 414, "target_too_long"),
    Row("L01 8 KiB", post(ROTATE, path="/" + "a" * (2**13 - 1)), 404, "not_found", closes=False),
    Row("L02", post(ROTATE, "X: " + "a" * 2**16), 431, "header_too_large"),
    Row("L03", header()[:-2] + b"X: " + b"a" * 2**21, 431, "header_too_large"),
    Row("L04", post(ROTATE, *["A: b"] * 10_000), 431, "header_too_large"),
    Row("L04 101 fields", post(ROTATE, *["A: b"] * 98), 431, "header_too_large"),
    Row("L04 100 fields", post(ROTATE, *["A: b"] * 97), 200, closes=False),
    Row("L05", header(JSON, f"Content-Length: {TEN_GIB}"), 413, "too_large"),
    Row("L06", header(JSON, f"Content-Length: {2**24 + 1}"), 413, "too_large"),
    Row("L07", header(JSON, f"Content-Length: {2**63 - 1}"), 413, "too_large"),
    Row("L08", header(JSON, CHUNKED) + b"%x\r\n" % 2**25 + b" " * (2**24 + 1), 413, "too_large"),
    Row(
        "L09",
        header(JSON, f"Content-Length: {TEN_GIB}", "Expect: 100-continue"),
        413,
        "too_large",
    ),
    Row("L10", post(ROTATE, "Expect: something-else"), 417, "expectation_failed"),
    Row(
        "L11",
        b"GET /v1/rotate HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        405,
        "method_not_allowed",
        closes=False,
    ),
    Row("L12", post(ROTATE, "Upgrade: h2c", "Connection: upgrade"), 200, closes=False),
    Row("M05", b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
    Row("F32", post(ROTATE, path="http://evil/v1/rotate"), 200, closes=False),
    Row("asterisk", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 404, "not_found", closes=False),
]


class Answer(NamedTuple):
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes


def connect(started: Started) -> socket.socket:
    host, port = started.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def read_all(connection: socket.socket) -> bytes:
    """Return what the service sends until it closes."""
    received = b""
    while part := connection.recv(2**20):
        received += part
    return received


def split(received: bytes) -> list[Answer]:
    """Cut what a connection brought into answers."""
    answers = []
    while received:
        text, _, received = received.partition(b"\r\n\r\n")
        status, *lines = text.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        size = int(headers["content-length"])
        answers.append(Answer(int(status.split()[1]), headers, received[:size]))
        received = received[size:]
    return answers


def read_answer(connection: socket.socket) -> Answer:
    """Return the next answer, of a connection that stays open."""
    with connection.makefile("rb", buffering=0) as stream:
        text = b""
        while not text.endswith(b"\r\n\r\n"):
            text += stream.read(1)
        size = int(re.search(rb"content-length: (\d+)", text)[1])
        body = b""
        while len(body) < size:
            body += stream.read(size - len(body))
    (answer,) = split(text + body)
    return answer


def exchange(started: Started, *packets: bytes) -> list[Answer]:
    """Return the answers to packets; the client writes first, and reads then."""
    with connect(started) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for packet in packets:
            connection.sendall(packet)
        return split(read_all(connection))


LAST = b"GET /behind HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_rows(server: Started, row: Row):
    first, *rest = exchange(server, row.request + LAST)
    assert first.status == row.status, first
    if row.status != 200:
        assert first.headers["content-type"] == "application/problem+json"
        assert json.loads(first.body)["code"] == row.code
        assert len(first.body) < 4096
    assert re.fullmatch("[0-9a-f]{16}", first.headers["x-request-id"])
    assert (first.headers.get("connection") == "close") == row.closes
    assert [answer.status for answer in rest] == ([] if row.closes else [404])
    assert httpx.get(f"{server.url}/healthz").status_code == 200


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


def test_refusals_are_counted_and_logged(serve: Serve):
    with serve() as started:
        exchange(started, b"hello\r\n\r\n")
        exchange(started, post(ROTATE, "X-Request-Id: mine", host=""))
        metrics = httpx.get(f"{started.url}/metrics").text
    assert 'rope_requests_total{route="other",status="400"} 1.0' in metrics
    assert 'rope_requests_total{route="/v1/rotate",status="400"} 1.0' in metrics
    lines = [json.loads(line) for line in serve.last_log().splitlines()]
    unread, mine = (line for line in lines if line.get("status") == 400)
    assert (unread["method"], unread["path"]) == ("-", "")
    assert (mine["method"], mine["path"], mine["request_id"]) == ("POST", "/v1/rotate", "mine")


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


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


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
    text = httpx.get(f"{started.url}/metrics").text
    return float(re.search(r"^rope_admitted_bytes (\S+)", text, re.MULTILINE)[1])


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
    assert admitted_bytes(impatient) == 0


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
    assert admitted_bytes(impatient) == 0


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


def test_the_port_for_the_status_serves_the_status_only(impatient: Started):
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
