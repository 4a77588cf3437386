"""Section X: many clients at once, with valid and malformed requests."""

import gzip
import struct
import threading
from collections.abc import Callable
from contextlib import ExitStack

from tests.attacks.binary import GOOD, infer
from tests.attacks.oip import X
from tests.attacks.requests import (
    INFER,
    ROTATE,
    SAFETENSORS,
    entry,
    get,
    post,
    post_json,
    safetensors,
    send,
    tensor,
)
from tests.attacks.sockets import connect, exchange, read_answer
from tests.attacks.watched_service import WatchedService
from tests.waiting import wait_until

BAD = [
    post(ROTATE[:20]),
    post(ROTATE, host=""),
    post_json({"q": tensor([1, 1, 2, 2], [0.5] * 3)}),
    post_json({"q": [[[1, 0]]], "positions": [2**63]}),
    send(safetensors({"q": entry([1, 1, 1, 2], 0, 8)}, bytes(9)), SAFETENSORS),
    post_json({"inputs": [X, X]}, path=INFER),
    infer(GOOD, length=5),
    b"garbage\r\n\r\n",
]


def good(n: int) -> bytes:
    """Return a rotation with its own numbers; safetensors if `n` is odd, else JSON."""
    values = [n + 0.25, 1.0, -n, 0.5]
    if n % 2:
        header = {"q": entry([2, 1, 2], 0, 16), "positions": entry([2], 16, 32, "I64")}
        return send(safetensors(header, struct.pack("<4f2q", *values, n, 3 * n)), SAFETENSORS)
    return post_json({"q": tensor([2, 1, 2], values), "positions": [n, 3 * n]})


def at_once(calls: list[Callable[[], None]]) -> None:
    """Run each function on its own thread, and raise the first failure."""
    failures: list[Exception] = []
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], None]) -> None:
        try:
            barrier.wait()
            call()
        except Exception as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_good_requests_beside_bad_ones(attacked: WatchedService):
    """X01. Each answer is equal to the answer of the same request sent alone."""
    expected = [attacked.solo(good(n)) for n in range(8)]
    last = get("/behind", "Connection: close")

    def ask(n: int) -> None:
        for _ in range(4):
            answer = exchange(attacked.started, good(n) + last)[0]
            assert (answer.status, answer.body) == (200, expected[n])

    def attack(request: bytes) -> None:
        for _ in range(4):
            assert exchange(attacked.started, request + last)[0].status in (400, 422)

    at_once([lambda n=n: ask(n) for n in range(8)] + [lambda r=r: attack(r) for r in BAD])
    attacked.check()


def test_many_connections_with_one_request_each(attacked: WatchedService):
    """X03."""
    before = attacked.num_descriptors()
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(attacked.started)) for _ in range(300)]
        for client in clients:
            client.sendall(post(ROTATE))
        assert {read_answer(client).status for client in clients} == {200}
    wait_until(lambda: attacked.num_descriptors() <= before)
    attacked.check()


def test_compressed_bodies_with_a_wrong_length_of_json(attacked: WatchedService):
    """X04."""
    packed = gzip.compress(bytes(2**20), compresslevel=0)
    request = infer(packed, b"", 2**20 - 1, "Content-Encoding: gzip")
    with connect(attacked.started) as client:
        for n in range(100):
            client.sendall(request)
            assert read_answer(client).status == 400
            if n == 20:
                before = attacked.resident_bytes()
    assert attacked.resident_bytes() - before < 32 * 2**20
    wait_until(lambda: attacked.admitted_bytes() == 0)
    attacked.check()
