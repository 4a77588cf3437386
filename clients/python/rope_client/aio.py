"""The client that is awaited."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

import httpx

from rope_client import calls
from rope_client.calls import Call, Response
from rope_client.errors import RopeClientError
from rope_client.exchange import Answered, Exchange, Request, Settings
from rope_client.methods import described_by
from rope_client.retry import RetryPolicy
from rope_client.transport import arguments, failure_of, outcome_of
from rope_client.wire import Encoding

P = ParamSpec("P")
T = TypeVar("T")


def _sends(
    build: Callable[P, Call[T]],
) -> Callable[Concatenate["AsyncClient", P], Coroutine[Any, Any, T]]:
    """Make a method that builds a call and sends it."""

    @described_by(build)
    async def method(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.send(build(*args, **kwargs))

    return method


class AsyncClient:
    """Asks a rope-service; tasks of one event loop may share one.

    Args:
        base_url: where the service is.
        encoding: `"safetensors"`, or `"json"` to read along.
        timeout_s: deadline of a call, attempts and pauses included.
        retry: when to try again.
        transport: httpx's, for TLS of one's own or for tests.
        clock: seconds that never run back.
        sleep: how to pause; `trio.sleep` under trio.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        *,
        encoding: Encoding = "safetensors",
        timeout_s: float = 30.0,
        retry: RetryPolicy | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._settings = Settings(
            encoding=encoding, timeout_s=timeout_s, retry=retry or RetryPolicy(), clock=clock
        )
        self._http = httpx.AsyncClient(base_url=base_url, transport=transport)
        self._sleep = sleep

    async def send(self, call: Call[T]) -> T:
        """Send a call until it is answered or has failed for good."""
        exchange = Exchange(call, self._settings)
        while True:
            verdict = exchange.receive(await self._attempt(exchange.request()))
            if isinstance(verdict, Answered):
                return verdict.answer
            await self._sleep(verdict.seconds)

    rotate = _sends(calls.rotate)
    attention = _sends(calls.attention)
    cos_sin = _sends(calls.cos_sin)
    shift = _sends(calls.shift)
    merge = _sends(calls.merge)
    resolve = _sends(calls.resolve)
    positions = _sends(calls.positions)
    presets = _sends(calls.presets)
    variants = _sends(calls.variants)
    ready = _sends(calls.ready)
    version = _sends(calls.version)

    async def _attempt(self, request: Request) -> Response | RopeClientError:
        try:
            return outcome_of(
                await self._http.request(**arguments(request), content=request.content)
            )
        except httpx.RequestError as error:
            return failure_of(error)

    async def aclose(self) -> None:
        """Close the connections; the client is of no use after that."""
        await self._http.aclose()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
