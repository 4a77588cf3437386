"""Random arrivals: exact counts, responses in the middle of a body, latency from the due time."""

import os
import signal
import socket
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from socketserver import StreamRequestHandler, TCPServer, ThreadingTCPServer
from threading import Lock, Thread

import pytest

from benchmarks import load
from benchmarks.load import Exchange, LoadError
from benchmarks.open_load import OpenLoad, request_files

pytestmark = pytest.mark.skipif(
    load.missing_programs() is not None, reason=str(load.missing_programs())
)
CORE = min(os.sched_getaffinity(0))
BODY = bytes(range(256))
LARGE_BODY = bytes(4 << 20)


def exchange(body=BODY):
    head = f"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n\r\n"
    return Exchange(head.encode() + body, BODY)


EXCHANGES = (exchange(),)
LARGE_EXCHANGES = (exchange(LARGE_BODY),)


def http(status=200, body=BODY, fields=""):
    head = f"HTTP/1.1 {status} Reason\r\nContent-Length: {len(body)}\r\n{fields}\r\n"
    return head.encode() + body


@contextmanager
def serving(respond, *, read_body=True, one_at_a_time=False):
    """Serve `respond(number)`: the response to the request with that number, or None to end.

    Without `read_body`, the connection ends behind the response, and most of the request is unread.
    Yields the port, and the connection and the length of the body of each request.
    """
    numbers, connections, received, lock = count(), count(), [], Lock()

    class Handler(StreamRequestHandler):
        def handle(self):
            connection = next(connections)
            while head := self.read_head():
                length = int(head.rpartition(b" ")[2])
                if read_body:
                    self.rfile.read(length)
                with lock:
                    received.append((connection, length))
                    number = next(numbers)
                response = respond(number)
                if response is None:
                    return
                self.wfile.write(response)
                if not read_body or b"Connection: close" in response:
                    return

        def read_head(self):
            lines = []
            with suppress(ConnectionError):
                while (line := self.rfile.readline()).strip():
                    lines.append(line)
            return b"".join(lines)

    class Server(TCPServer if one_at_a_time else ThreadingTCPServer):
        request_queue_size = 512
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1], received
        finally:
            server.shutdown()
            thread.join()


LOAD = OpenLoad(CORE, (), rate=400, seconds=0.25, deadline_ms=60_000, connections=16)


def send(port, load=LOAD, exchanges=EXCHANGES):
    with request_files(exchanges) as files:
        return replace(load, files=files).run(port)


def run(respond, load=LOAD, exchanges=EXCHANGES, **options):
    with serving(respond, **options) as (port, received):
        return send(port, load, exchanges), received


@pytest.mark.parametrize("new_connections", [False, True])
def test_counts_are_those_of_the_server(new_connections):
    cycle = (200, 429, 503, 200, 504)
    arrivals, received = run(
        lambda number: http(cycle[number % 5], BODY if number % 5 in (0, 3) else b"no"),
        replace(LOAD, new_connections=new_connections),
    )

    assert arrivals.offered - arrivals.dropped == len(received)
    assert arrivals.statuses == Counter(cycle[i % 5] for i in range(len(received)))
    assert arrivals.in_deadline == arrivals.accepted.count == arrivals.statuses[200]
    assert arrivals.refused.count == arrivals.statuses[429] + arrivals.statuses[503]
    assert arrivals.other.count == arrivals.statuses[504]
    assert arrivals.slip.count == arrivals.offered
    assert (arrivals.not_connected, arrivals.ended, arrivals.timed_out) == (0, 0, 0)
    opened = {connection for connection, _ in received}
    assert arrivals.opened == len(opened) == (len(received) if new_connections else 16)


def test_response_in_the_middle_of_the_body_is_counted():
    """The server reads the head alone and ends the connection, which resets it."""
    arrivals, received = run(
        lambda number: http(503, b"full"), exchanges=LARGE_EXCHANGES, read_body=False
    )

    assert arrivals.statuses == {503: len(received)}
    assert arrivals.ended == 0
    assert arrivals.opened == len(received), "each connection was opened again"


def test_connection_that_ends_behind_a_response_is_opened_again():
    arrivals, received = run(lambda number: http(fields="Connection: close\r\n"))

    assert arrivals.statuses == {200: len(received)}
    assert arrivals.opened == len(received)


def test_body_goes_on_after_a_response_that_leaves_the_connection_open():
    """Responds to the head, and reads the body only then."""
    heads, accepted = exchange(LARGE_BODY).request[: -len(LARGE_BODY)], []

    def serve(listener):
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as file:
            while file.read(len(heads)):
                connection.sendall(http(503, b"full"))
                assert file.read(len(LARGE_BODY)) == LARGE_BODY
                accepted.append(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=serve, args=(listener,))
        thread.start()
        one = replace(LOAD, connections=1)
        arrivals = send(listener.getsockname()[1], one, LARGE_EXCHANGES)
        thread.join()

    assert arrivals.statuses == {503: len(accepted)}
    assert arrivals.opened == 1


def test_server_that_stalls_shows_the_stall_in_all_latencies():
    """The first response takes 0.4 s, and those to all that arrive meanwhile come after it."""

    def respond(number):
        if number == 0:
            time.sleep(0.4)
        return http()

    load = replace(LOAD, new_connections=True, connections=512, deadline_ms=100)
    load = replace(load, seconds=0.2)
    arrivals, _ = run(respond, load, one_at_a_time=True)

    assert arrivals.statuses[200] == arrivals.offered > 1
    assert arrivals.in_deadline == 0
    assert arrivals.accepted.p50_ms > 200


def load_generator():
    """Return the process of the load generator: other tests may have left other children."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    (generator,) = (
        int(child)
        for child in children
        if b"open_load-" in Path(f"/proc/{child}/cmdline").read_bytes()
    )
    return generator


def test_latency_counts_from_the_time_at_which_the_arrival_was_due():
    """The load generator itself is stopped while most arrivals are due."""

    def respond(number):
        if number == 0:
            generator = load_generator()
            os.kill(generator, signal.SIGSTOP)
            time.sleep(0.5)
            os.kill(generator, signal.SIGCONT)
        return http()

    arrivals, _ = run(respond, replace(LOAD, connections=512))

    assert arrivals.statuses == {200: arrivals.offered}
    assert arrivals.accepted.p50_ms > arrivals.slip.p50_ms


def test_gaps_are_exponential_and_given_by_the_seed():
    load = replace(LOAD, rate=50_000, seconds=0.2, connections=1)
    with serving(lambda number: http()) as (port, _):
        first, again, other = (send(port, replace(load, seed=seed)) for seed in (1, 1, 2))

    assert first.offered == again.offered != other.offered
    assert first.gap_mean_s == again.gap_mean_s != other.gap_mean_s
    for arrivals in (first, other):
        assert arrivals.offered == pytest.approx(10_000, rel=0.05)
        assert arrivals.gap_mean_s == pytest.approx(1 / 50_000, rel=0.05)
        assert arrivals.gap_variance_s2 == pytest.approx(arrivals.gap_mean_s**2, rel=0.15)


def test_warm_up_is_not_counted():
    arrivals, received = run(lambda number: http(), replace(LOAD, warm_up_s=0.25, connections=512))
    same, _ = run(lambda number: http(), replace(LOAD, seconds=0.5, connections=512))

    assert len(received) == same.offered, "the same seed gives the same times"
    assert 0 < arrivals.offered == arrivals.statuses[200] < 0.75 * len(received)


def test_requests_are_chosen_at_random():
    load = replace(LOAD, connections=512)
    _, received = run(lambda number: http(), load, [exchange(bytes(size)) for size in (1, 2, 3)])

    sizes = Counter(size for _, size in received)
    assert {*sizes} == {1, 2, 3}
    assert min(sizes.values()) > len(received) / 6


NO_RESPONSE = {
    "ended": (lambda number: None, "ended", 60),
    "timed out": (lambda number: b"", "timed_out", 0.3),
    "half a response": (lambda number: http()[:-1], "timed_out", 0.3),
}


@pytest.mark.parametrize(("respond", "counter", "timeout_s"), NO_RESPONSE.values(), ids=NO_RESPONSE)
def test_arrivals_without_a_response_are_counted(respond, counter, timeout_s):
    arrivals, _ = run(respond, replace(LOAD, connections=512, timeout_s=timeout_s))

    assert arrivals.statuses == {}
    assert getattr(arrivals, counter) == arrivals.offered
    assert arrivals.accepted is arrivals.refused is None


def test_arrivals_that_cannot_connect_are_counted():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    arrivals = send(port)

    assert arrivals.not_connected == arrivals.offered == arrivals.opened


WRONG = {
    "length": (http(body=BODY[:-1]), "255 bytes instead of 256"),
    "no length": (b"HTTP/1.1 200 OK\r\n\r\n" + BODY, "malformed head"),
    "no status": (b"HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n", "malformed head"),
    "bytes too many": (http() + b"x" * 64, "(after the response|no request asked for|malformed)"),
}


@pytest.mark.parametrize(("response", "message"), WRONG.values(), ids=WRONG)
def test_wrong_response_is_an_error(response, message):
    with pytest.raises(LoadError, match=message):
        run(lambda number: response)
