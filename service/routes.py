"""The routes of `/v1`: bytes to message to call, and back. Plain ASGI: they are the hot path."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from rope_core import Result, Table
from service import endpoints, http
from service.admission import Admission, Charge
from service.asks import Asked
from service.batcher import Answer, Batcher, Entry
from service.choice import Choice
from service.endpoints import PROMPT_PARAMS_BYTES, Endpoint
from service.engine import Engine, Job
from service.errors import ClientLeft, TimedOut, TooLarge
from service.http import Receive, Scope, Send
from service.metrics import Metrics
from service.ropes import Ropes
from service.settings import Settings
from service.slabs import Slabs
from service.wire import Buffer, Codec, Message, codec_for, codec_of_answer

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Service:
    """What all routes share, made at start."""

    settings: Settings
    engine: Engine
    choice: Choice
    batcher: Batcher[Job, Result]
    admission: Admission
    slabs: Slabs
    ropes: Ropes
    readers: Executor
    """Threads that read bodies which would hold up the event loop."""
    metrics: Metrics


class Route:
    """One endpoint as an ASGI application."""

    def __init__(self, endpoint: Endpoint[Any], service: Service) -> None:
        self._endpoint = endpoint
        self._service = service
        self._operation = endpoint.path.removeprefix("/v1/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request.

        Raises:
            ServiceError, RopeError: the request cannot be answered.
        """
        headers = dict(scope["headers"])
        codec, answer_codec = self._codecs(headers)
        settings = self._service.settings
        patience = http.timeout_s(headers, settings.default_timeout_s, settings.max_timeout_s)
        deadline = time.monotonic() + patience
        with Charge(self._service.admission) as charge:
            try:
                async with asyncio.timeout(patience):
                    body = await self._receive(headers, codec, receive, charge)
                    message = await self._aside(codec, len(body), codec.decode, body)
                    asked = await self._ask(message)
            except TimeoutError:
                raise TimedOut from None
            in_base64 = message.base64
            if isinstance(asked.call, Message):
                told = replace(asked.call, base64=in_base64)
                size = sum(tensor.nbytes for tensor in told.tensors.values())
                self._charge_answer(answer_codec, size, charge)
                answer = None
            else:
                backend = self._service.choice.of(asked.call, asked.backend)
                job = self._service.engine.job(asked.call, backend)
                size, warnings = job.answer_bytes, asked.warnings
                self._charge_answer(answer_codec, size, charge)
                # the job has what it needs, and lets go of it when it is done
                del body, message, asked
                answer = await self._wait(job, deadline, receive)
                del job
                told = endpoints.write(answer.result, in_base64, warnings)
                if done_by := _backend(answer.result):
                    self._service.metrics.backend_calls(self._operation, done_by).inc()
            parts = await self._aside(answer_codec, size, answer_codec.encode, told)
            about = [*self._named(answer_codec), *_headers(answer, parts)]
            await http.send(send, 200, about, parts)

    def _codecs(self, headers: dict[bytes, bytes]) -> tuple[Codec, Codec]:
        """Return who reads the request, and who writes the answer."""
        codec = codec_for(headers.get(b"content-type"))
        return codec, codec_of_answer(headers.get(b"accept"), codec)

    def _named(self, codec: Codec) -> http.Headers:
        """Return the headers that say what an answer is, once it is written."""
        return [(b"content-type", codec.media_type.encode())]

    async def _ask(self, message: Message) -> Asked:
        if not self._endpoint.aside and len(message.params) <= PROMPT_PARAMS_BYTES:
            return self._endpoint.read(message, self._service.ropes)
        loop = asyncio.get_running_loop()
        arguments = message, self._service.ropes
        return await loop.run_in_executor(self._service.readers, self._endpoint.read, *arguments)

    def _limit(self, codec: Codec) -> int:
        settings = self._service.settings
        return settings.max_json_bytes if codec.expansion > 1 else settings.max_body_bytes

    async def _receive(
        self, headers: dict[bytes, bytes], codec: Codec, receive: Receive, charge: Charge
    ) -> Buffer:
        limit = self._limit(codec)
        declared = http.declared_bytes(headers)
        if declared is not None and declared > limit:
            raise TooLarge("the body, in bytes,", limit, f"{declared:,}")

        def charge_body(num_bytes: int) -> None:
            charge.add(num_bytes * codec.expansion)

        charge_body(declared or 0)
        return await http.read_body(receive, declared, limit, charge_body, self._service.slabs)

    def _charge_answer(self, codec: Codec, num_bytes: int, charge: Charge) -> None:
        if num_bytes > self._limit(codec):
            expected = f"an answer in {codec.media_type}, in bytes,"
            raise TooLarge(expected, self._limit(codec), f"{num_bytes:,}")
        charge.add(num_bytes * codec.expansion)

    async def _aside(self, codec: Codec, num_bytes: int, work: Callable[[T], R], argument: T) -> R:
        """Read or write a body: on the event loop, or beside it where it would be held up."""
        if num_bytes <= codec.prompt_bytes:
            return work(argument)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._service.readers, work, argument)

    async def _wait(self, job: Job, deadline: float, receive: Receive) -> Answer[Result]:
        """Return the answer; if it has to wait, see whether the client does, too."""
        watchers: list[asyncio.Task[None]] = []

        def watch(entry: Entry[Job, Result]) -> None:
            watchers.append(asyncio.create_task(self._withdraw_when_left(entry, receive)))

        entry = self._service.batcher.submit(job, deadline, watch)
        try:
            return await entry.answer
        finally:
            for watcher in watchers:
                watcher.cancel()
            watchers.clear()  # a circle by way of the entry: its tensors wait for no collector

    async def _withdraw_when_left(self, entry: Entry[Job, Result], receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._service.batcher.withdraw(entry, ClientLeft())


def _backend(result: Result) -> str:
    """Return the name of the backend, "" where it took none."""
    return "" if isinstance(result, Table) else result.backend


def _headers(answer: Answer[Result] | None, parts: list[Buffer]) -> http.Headers:
    headers = [(b"content-length", str(sum(map(len, parts))).encode())]
    if answer is not None:  # it took the device
        times = (
            f"queue;dur={answer.queue_s * 1e3:.3f}, copy;dur={answer.copy_s * 1e3:.3f}, "
            f"compute;dur={answer.compute_s * 1e3:.3f}"
        )
        if done_by := _backend(answer.result):
            times += f', backend;desc="{done_by}"'
        headers.append((b"server-timing", times.encode()))
    return headers
