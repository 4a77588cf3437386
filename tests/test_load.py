"""The load generator of the benchmarks: exact counts, and an error for each wrong response."""

import os
import re
import shutil
from collections import Counter
from contextlib import contextmanager, suppress
from itertools import count, takewhile
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer, ThreadingUnixStreamServer
from threading import Thread

import pytest

from benchmarks import load
from benchmarks.load import Exchange, Load, LoadError, exchange_files

pytestmark = pytest.mark.skipif(
    load.missing_programs() is not None, reason=str(load.missing_programs())
)
CORE = min(os.sched_getaffinity(0))
BODY = bytes(range(256)) * 40


def exchange(body=BODY, response=None):
    head = f"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n\r\n"
    return Exchange(head.encode() + body, body if response is None else response)


EXCHANGES = (exchange(),)


def http(body, status="200 OK", length=None):
    length = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\ndate: now\r\nContent-Length: {length}\r\n\r\n".encode() + body


@contextmanager
def serving(respond, path=None):
    """Serve `respond(connection, request, body)`: bytes, or None to end the connection.

    Yields the address, and how often each body came on each connection.
    """
    numbers, received = count(), Counter()

    class Handler(StreamRequestHandler):
        def handle(self):
            connection = next(numbers)
            for request in count():
                head = b"".join(takewhile(bytes.strip, self.rfile))
                if not head:
                    return
                body = self.rfile.read(int(head.rpartition(b" ")[2]))
                received[connection, body] += 1
                response = respond(connection, request, body)
                if response is None:
                    return
                with suppress(ConnectionError):
                    self.wfile.write(response)

    address = str(path) if path else ("127.0.0.1", 0)
    kind = ThreadingUnixStreamServer if path else ThreadingTCPServer
    with kind(address, Handler) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield (str(path) if path else str(server.server_address[1])), received
        finally:
            server.shutdown()
            thread.join()


def run(respond, *, connections=1, seconds=0.05, timeout_s=10, exchanges=EXCHANGES):
    with serving(respond) as (address, received), exchange_files(exchanges) as files:
        load = Load(CORE, files, connections, seconds, timeout_s)
        figures = load.run(address, compare_bytes=True)
    return figures, received


def fails(respond, connections=1):
    with pytest.raises(LoadError) as caught:
        run(respond, connections=connections, seconds=60, timeout_s=0.3)
    return str(caught.value)


@pytest.mark.parametrize("connections", [1, 2, 7])
def test_counts_are_those_of_the_server(connections):
    figures, received = run(lambda *_: http(BODY), connections=connections)

    assert len(received) == connections
    assert figures["responses"] == received.total()
    assert figures["least"] == min(received.values())
    assert figures["most"] == max(received.values())
    assert 0 < figures["p50_ms"] <= figures["p99_ms"]
    # the window ends with a response; each other connection then has one more at the most
    in_window = figures["rate"] * figures["elapsed_s"]
    assert in_window >= figures["responses"] - connections
    assert figures["rate"] * 0.05 <= figures["responses"] * 1.001


def test_requests_go_in_rotation():
    bodies = [bytes([i]) * (i + 1) for i in range(5)]
    exchanges = [exchange(body, body * 2) for body in bodies]
    _, received = run(
        lambda _, __, body: http(body * 2),
        connections=2,
        exchanges=exchanges,
    )

    for connection in range(2):
        counts = [received[connection, body] for body in bodies]
        assert max(counts) - min(counts) <= 1


def test_one_request_on_each_connection_without_seconds():
    figures, received = run(lambda *_: http(BODY), connections=5, seconds=0)

    assert figures["responses"] == received.total() == 5
    assert figures["least"] == figures["most"] == 1


def test_large_messages():
    body = os.urandom(1 << 22)
    figures, received = run(
        lambda _, __, body: http(body),
        connections=2,
        exchanges=[exchange(body)],
    )

    assert figures["responses"] == received.total() >= 2


def test_unix_socket(tmp_path: Path):
    with (
        serving(lambda *_: http(BODY), tmp_path / "socket") as (address, received),
        exchange_files([exchange()]) as files,
    ):
        figures = Load(CORE, files, 3, 0.05).run(address)

    assert figures["responses"] == received.total()
    assert len(received) == 3


def test_missing_compiler_is_named(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "gcc" else f"/bin/{name}")

    assert load.missing_programs() == "needs gcc: apt-get install gcc libc6-dev util-linux"


WRONG = {
    "status": (http(b"no room", "503 Service Unavailable"), "status 503"),
    "length": (http(BODY[:-1]), f"{len(BODY) - 1} bytes instead of {len(BODY)}"),
    "no length": (b"HTTP/1.1 200 OK\r\n\r\n" + BODY, "no content-length"),
    "bytes too many": (http(BODY) + b"\0" * 128, "(bytes after the response|no request asked for)"),
    "bytes too few": (http(BODY[:-1], length=len(BODY)), "none within 0.3 s; 1 of 1"),
    "other bytes": (http(BODY[:-1] + b"\0"), "differs"),
    "no response": (b"", "none within 0.3 s; 1 of 1"),
    "end": (None, "closed by the server"),
}


@pytest.mark.parametrize(("response", "message"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("number", [1, 3])
def test_wrong_response_is_an_error(response, message, number):
    def respond(_, request, __):
        return response if request == number - 1 else http(BODY)

    # bytes behind a response can be read with it or after it
    assert re.match(rf"connection 0, response [{number}{number + 1}]: .*{message}", fails(respond))


def test_bytes_are_compared_only_on_request():
    with (
        serving(lambda *_: http(BODY[::-1])) as (address, received),
        exchange_files(EXCHANGES) as files,
    ):
        figures = Load(CORE, files, 1, 0.05).run(address)

    assert figures["responses"] == received.total()


@pytest.mark.parametrize("first_silent_request", [0, 3])
def test_one_connection_that_hangs_is_an_error(first_silent_request):
    def respond(connection, request, _):
        silent = connection == 4 and request >= first_silent_request
        return b"" if silent else http(BODY)

    assert re.search(r"none within 0.3 s; \d+ of 8 connections wait", fails(respond, 8))
