"""The routes of `/v1`: bytes to message to call, and back. Plain ASGI: they are the hot path."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from rope_core import Result
from service.asgi import io
from service.asgi.io import Receive, Scope, Send
from service.batching.admission import Charge
from service.batching.batcher import Completed, Entry
from service.endpoints import table
from service.endpoints.table import Endpoint
from service.errors import ClientLeft, TimedOut, TooLarge
from service.inference.engine import Job
from service.inference.handler import InferenceService, backend_of
from service.wire import Buffer, Codec, Message, codec_for, negotiate_response_codec


@dataclass(frozen=True, slots=True)
class Served:
    """What a request has come to."""

    answer: Completed[Result] | None
    """None where it took no device."""

    write_s: float
    """Time that it took to write the answer."""


class Route:
    """One endpoint as an ASGI application."""

    def __init__(self, endpoint: Endpoint[Any], service: InferenceService) -> None:
        self._endpoint = endpoint
        self._service = service
        self._operation = endpoint.path.removeprefix("/v1/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request.

        Raises:
            ServiceError, RopeError: the request cannot be answered.
        """
        await self.serve(scope, receive, send)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> Served:
        """Answer a request, and tell what it took.

        Raises:
            ServiceError, RopeError: the request cannot be answered.
        """
        headers = dict(scope["headers"])
        codec, answer_codec = self._codecs(headers)
        service = self._service
        settings = service.settings
        patience = io.timeout_s(headers, settings.default_timeout_s, settings.max_timeout_s)
        deadline = time.monotonic() + patience
        with Charge(service.admission) as charge:
            try:
                async with asyncio.timeout(patience):
                    body = await self._receive(headers, codec, receive, charge)
                    is_long = len(body) > codec.inline_limit_bytes
                    message, as_base64 = await service.run_blocking(is_long, codec.decode, body)
                    asked = await service.prepare(self._endpoint, message)
            except TimeoutError:
                raise TimedOut from None
            answer = None
            if isinstance(asked, Message):
                told = asked
                size = sum(tensor.nbytes for tensor in told.tensors.values())
                self._charge_answer(answer_codec, size, charge)
            else:
                self._charge_read(codec, charge)
                queue_s = self._queue_s(codec)
                job = service.job(asked)
                size, warnings = job.answer_bytes, asked.warnings
                self._charge_answer(answer_codec, size, charge)
                # the job has what it needs, and lets go of it when it is done
                del body, message, asked
                answer = await self._wait(job, deadline, receive, queue_s)
                del job
                told = table.write(answer.result, warnings)
            begun = time.perf_counter()
            is_long = size > answer_codec.inline_limit_bytes
            parts = await service.run_blocking(is_long, answer_codec.encode, told, as_base64)
            served = Served(answer, time.perf_counter() - begun)
            about = [*self._named(answer_codec), *_headers(answer, parts)]
            await io.send(send, 200, about, parts)
            return served

    def _codecs(self, headers: dict[bytes, bytes]) -> tuple[Codec, Codec]:
        """Return who reads the request, and who writes the answer."""
        codec = codec_for(headers.get(b"content-type"))
        return codec, negotiate_response_codec(headers.get(b"accept"), codec)

    def _named(self, codec: Codec) -> io.Headers:
        """Return the headers that say what an answer is, once it is written."""
        return [(b"content-type", codec.media_type.encode())]

    def _charge_read(self, codec: Codec, charge: Charge) -> None:
        """Charge for what a request that is read took beside its body."""

    def _queue_s(self, codec: Codec) -> float | None:
        """Return how long a request that is read may wait for the device, None: its deadline."""
        return None

    async def _receive(
        self, headers: dict[bytes, bytes], codec: Codec, receive: Receive, charge: Charge
    ) -> Buffer:
        io.check_not_encoded(headers)
        return await self._receive_raw(headers, codec.memory_factor, receive, charge)

    async def _receive_raw(
        self, headers: dict[bytes, bytes], memory_factor: int, receive: Receive, charge: Charge
    ) -> Buffer:
        """Return the body as it came, charged for `expansion` bytes for each of its bytes."""
        limit = self._limit(memory_factor)
        declared = io.declared_bytes(headers)
        if declared is not None and declared > limit:
            raise TooLarge("the body, in bytes,", limit, f"{declared:,}")

        def charge_body(num_bytes: int) -> None:
            charge.add(num_bytes * memory_factor)

        charge_body(declared or 0)
        return await io.read_body(receive, declared, limit, charge_body, self._service.buffer_pool)

    def _limit(self, memory_factor: int) -> int:
        settings = self._service.settings
        return settings.max_json_bytes if memory_factor > 1 else settings.max_body_bytes

    def _charge_answer(self, codec: Codec, num_bytes: int, charge: Charge) -> None:
        limit = self._limit(codec.memory_factor)
        if num_bytes > limit:
            expected = f"an answer in {codec.media_type}, in bytes,"
            raise TooLarge(expected, limit, f"{num_bytes:,}")
        charge.add(num_bytes * codec.memory_factor)

    async def _wait(
        self, job: Job, deadline: float, receive: Receive, queue_s: float | None
    ) -> Completed[Result]:
        """Return the answer; if it has to wait, see whether the client does, too."""
        watchers: list[asyncio.Task[None]] = []

        def watch(entry: Entry[Job, Result]) -> None:
            leave = self._withdraw_when_left(entry, receive)
            watchers.append(asyncio.create_task(leave))

        try:
            return await self._service.run(job, self._operation, deadline, watch, queue_s)
        finally:
            for watcher in watchers:
                watcher.cancel()
            watchers.clear()  # a circle by way of the entry: its tensors wait for no collector

    async def _withdraw_when_left(self, entry: Entry[Job, Result], receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._service.batcher.withdraw(entry, ClientLeft())


def _headers(answer: Completed[Result] | None, parts: list[Buffer]) -> io.Headers:
    headers = [(b"content-length", str(sum(map(len, parts))).encode())]
    if answer is not None:  # it took the device
        times = (
            f"queue;dur={answer.queue_s * 1e3:.3f}, copy;dur={answer.copy_s * 1e3:.3f}, "
            f"compute;dur={answer.compute_s * 1e3:.3f}"
        )
        if done_by := backend_of(answer.result):
            times += f', backend;desc="{done_by}"'
        headers.append((b"server-timing", times.encode()))
    return headers
