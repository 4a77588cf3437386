"""Handlers of RPCs, called as the server on grpcio's core calls them."""

import asyncio
import inspect
import math
from types import SimpleNamespace

from service.access.gate import Gate
from service.observability.metrics import Metrics
from service.observability.request_log import RequestLog
from service.oip.grpc.rpc import Rpc
from service.oip.grpc.rpc_handlers import RpcHandlers


async def test_an_rpc_may_end_before_its_response_begins():
    """Its client may leave in the turn of the event loop that receives its request."""

    async def echo(body: bytes) -> bytes:
        return body

    call_details = SimpleNamespace(deadline=math.inf)
    event = SimpleNamespace(call=None, call_details=call_details, invocation_metadata=())
    rpc = Rpc(event, is_stream=False)
    handlers = RpcHandlers(RequestLog(Metrics(), logged=False, quiet=frozenset()), Gate())
    response = echo(b"")
    handlers.unary("/test", lambda *_: response)(rpc, b"")
    rpc.on_cancel()
    await asyncio.sleep(0)
    assert inspect.getcoroutinestate(response) == inspect.CORO_CLOSED
    assert rpc.status is None
