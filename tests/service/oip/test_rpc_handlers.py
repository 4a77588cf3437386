"""Handlers of RPCs, called as the server on grpcio's core calls them."""

import asyncio
import inspect
import math
import time
from types import SimpleNamespace

import pytest

from service.access.gate import Gate
from service.observability.metrics import Metrics
from service.observability.request_log import RequestLog
from service.oip.grpc.rpc import Rpc, SendTimeout
from service.oip.grpc.rpc_handlers import RpcHandlers


def make_rpc(deadline: float = math.inf) -> Rpc:
    details = SimpleNamespace(deadline=deadline)
    event = SimpleNamespace(call=None, call_details=details, invocation_metadata=())
    return Rpc(event, False, SendTimeout(10, 2**16, 60))


@pytest.mark.parametrize("days", [-2, 2])
def test_a_jump_of_the_clock_does_not_move_a_deadline(days: int, monkeypatch: pytest.MonkeyPatch):
    """Z10."""
    now = time.time()
    rpc = make_rpc(now + 1000)
    monkeypatch.setattr(time, "time", lambda: now + days * 86_400)
    left_s = rpc.time_remaining()
    assert left_s is not None
    assert 900 < left_s <= 1000
    assert make_rpc().time_remaining() is None


async def test_an_rpc_may_end_before_its_response_begins():
    """Its client may leave in the turn of the event loop that receives its request."""

    async def echo(body: bytes) -> bytes:
        return body

    rpc = make_rpc()
    handlers = RpcHandlers(RequestLog(Metrics(), level="error", quiet=frozenset()), Gate())
    response = echo(b"")
    handlers.unary("/test", lambda *_: response)(rpc, b"")
    rpc.on_cancel()
    await asyncio.sleep(0)
    assert inspect.getcoroutinestate(response) == inspect.CORO_CLOSED
    assert rpc.status is None
