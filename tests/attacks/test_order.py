"""Requests in pieces, pipelined requests, and half-closed connections."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from tests.attacks.requests import CHUNKED, JSON, ROTATE, chunks, get, header, post, post_json
from tests.attacks.sockets import LAST, connect, exchange, read_all, read_answer, split
from tests.attacks.watched_service import PACKED, WatchedService
from tests.waiting import wait_until

CODED = header(JSON, CHUNKED) + chunks(ROTATE[:9], ROTATE[9:], trailer=b"A: b\r\n")
CONTROL = post_json({"ready": True}, path="/v2/repository/index")
GOOD = [post(ROTATE), PACKED, CODED, CONTROL, get("/healthz")]
NAMES = ["ordinary", "planned", "chunked", "control", "health"]
BAD = post(ROTATE, host="")


@pytest.fixture(autouse=True)
def checked(attacked: WatchedService) -> Iterator[None]:
    yield
    attacked.check()


@pytest.mark.parametrize("request_", GOOD, ids=NAMES)
def test_a_request_is_the_same_wherever_it_is_cut(attacked: WatchedService, request_: bytes):
    expected = attacked.solo(request_)
    with connect(attacked.started) as connection:
        for end in range(1, len(request_)):
            connection.sendall(request_[:end])
            connection.sendall(request_[end:])
            answer = read_answer(connection)
            assert (answer.status, answer.body) == (200, expected), end


@pytest.mark.parametrize("request_", GOOD, ids=NAMES)
def test_nothing_behind_a_bad_request_is_run(attacked: WatchedService, request_: bytes):
    first, second, third = exchange(attacked.started, request_ * 2 + BAD + request_ * 2 + LAST)
    assert (first.status, second.status, third.status) == (200, 200, 400)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("request_", [*GOOD, post(b"{}")], ids=[*NAMES, "refused"])
def test_a_half_closed_client_gets_its_answers(
    attacked: WatchedService, request_: bytes, count: int
):
    with connect(attacked.started) as connection:
        connection.sendall(request_ * count)
        connection.shutdown(socket.SHUT_WR)
        assert len(split(read_all(connection))) == count


def test_a_bad_request_of_a_half_closed_client(attacked: WatchedService):
    with connect(attacked.started) as connection:
        connection.sendall(BAD)
        connection.shutdown(socket.SHUT_WR)
        assert [answer.status for answer in split(read_all(connection))] == [400]


@pytest.mark.parametrize("request_", GOOD, ids=NAMES)
def test_half_a_request_behind_others_is_dropped(attacked: WatchedService, request_: bytes):
    """F26."""
    for end in range(0, len(request_), 7):
        with connect(attacked.started) as connection:
            connection.sendall(request_ * 2 + request_[:end])
            connection.shutdown(socket.SHUT_WR)
            assert [answer.status for answer in split(read_all(connection))] == [200] * 2


@pytest.mark.parametrize("request_", GOOD[:4], ids=NAMES[:4])
def test_a_body_that_ends_early_has_no_answer(attacked: WatchedService, request_: bytes):
    """F26."""
    start = request_.index(b"\r\n\r\n") + 4
    for end in range(start, len(request_)):
        with connect(attacked.started) as connection:
            connection.sendall(request_[:end])
            connection.shutdown(socket.SHUT_WR)
            assert read_all(connection) == b""
    wait_until(lambda: attacked.admitted_bytes() == 0)


def test_many_pipelined_requests_take_no_memory(attacked: WatchedService):
    """F31. A parsed request takes a hundred times the memory of its bytes."""
    tiny = b"GET / HTTP/1.1\r\nHost:\r\n\r\n"
    num_bytes, before = 2**22, attacked.resident_bytes()
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(attacked.started)) for _ in range(4)]
        for client in clients:
            client.setblocking(False)
            with suppress(BlockingIOError):
                client.send(tiny * (num_bytes // len(tiny)))
        for _ in range(20):
            attacked.check()
        assert attacked.resident_bytes() - before < 32 * 2**20
