"""Inference over gRPC: one request, or a stream of them."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import nullcontext
from typing import Any

from grpc.aio import ServicerContext

from service import endpoints
from service.admission import Charge
from service.batcher import Entry
from service.errors import ClientLeft, TimedOut
from service.oip.grpc.convert import (
    Request,
    parse,
    read_params,
    read_plan,
    write_params,
    write_response,
)
from service.oip.grpc.errors import status_of
from service.oip.grpc.messages import ModelStreamInferResponse
from service.oip.grpc.streams import while_open
from service.oip.grpc.wire import join_streamed
from service.oip.models import Model, model_of
from service.oip.params import FINAL
from service.oip.protocol import Protocol
from service.wire import Buffer

PROMPT_HEAD_BYTES = endpoints.PROMPT_PARAMS_BYTES
"""A request whose message, but its raw tensors, is longer takes a thread to be read."""

EXPANSION = 16
"""Bytes of memory that reading such a message may take, for each of its bytes: typed numbers."""

PROMPT_BYTES = 64 * 2**10
"""An answer that is longer takes a thread to be written."""

MAX_UNANSWERED = 32
"""Requests of a stream that are answered at a time; more are not read."""


class Infer:
    """Answers requests to infer."""

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self._service = protocol.service

    async def one(self, request: bytes, context: ServicerContext) -> bytes:
        """Answer one request."""
        parts = await self._answer(parse(request), self._patience(context), {})
        return b"".join(parts)

    async def stream(
        self, requests: AsyncIterator[bytes], context: ServicerContext
    ) -> AsyncIterator[bytes]:
        """Answer requests in their order; that one fails does not end the others.

        Raises:
            ServiceError, RopeError: the first failure, where the client wants it for the stream's.
        """
        metadata = dict(context.invocation_metadata() or ())
        fails = metadata.get("triton_grpc_error") == "true"
        answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(MAX_UNANSWERED)
        tasks: set[asyncio.Task[Any]] = set()

        def begin(request: bytes) -> asyncio.Task[bytes]:
            answer = self._streamed(request, self._patience(context), fails)
            task = asyncio.create_task(answer)
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            return task

        async def read() -> None:
            try:
                async for request in while_open(requests, self._protocol.life):
                    await answers.put(begin(request))
            finally:
                await answers.put(None)

        reader = asyncio.create_task(read())
        try:
            while (answer := await answers.get()) is not None:
                yield await answer
            await reader
        finally:
            for task in (reader, *tasks):
                task.cancel()

    async def _streamed(self, request: bytes, patience: float, fails: bool) -> bytes:
        whose: dict[str, Any] = {}
        try:
            asked = parse(request)
            whose = {"id": asked.id, "model_name": asked.message.model_name}
            more = {"triton_final_response": True} if _wants_final(asked.message) else {}
            whose["parameters"] = write_params(more)
            return b"".join(join_streamed(await self._answer(asked, patience, more)))
        except Exception as failure:
            if fails:
                raise
            _, text = status_of(failure)
            told = ModelStreamInferResponse(error_message=text, infer_response=whose)
            return bytes(told.SerializeToString())

    async def _answer(
        self, asked: Request, patience: float, more: Mapping[str, bool]
    ) -> list[Buffer]:
        """Return the parts of the answer to a request, and count it."""
        model = model_of(asked.message.model_name, asked.message.model_version)
        statistics = self._protocol.statistics[model.name]
        started = time.perf_counter()
        try:
            return await self._infer(model, asked, patience, more, started)
        except asyncio.CancelledError:
            statistics.failed(ClientLeft(), started)
            raise
        except Exception as failure:
            statistics.failed(failure, started)
            raise model.told(failure) from None

    async def _infer(
        self,
        model: Model,
        asked: Request,
        patience: float,
        more: Mapping[str, bool],
        started: float,
    ) -> list[Buffer]:
        service, deadline = self._service, time.monotonic() + patience
        with Charge(service.admission) as charge:
            charge.add(len(asked.head) * EXPANSION + sum(map(len, asked.raw)))
            try:
                is_long = len(asked.head) > PROMPT_HEAD_BYTES
                # what is not long takes no thread, so that nothing could end it early
                async with asyncio.timeout(patience) if is_long else nullcontext():
                    planner = self._protocol.planner
                    plan = await service.aside(is_long, read_plan, model, planner, asked)
                    charge.add(plan.region_bytes)
                    call = await service.ask(model.endpoint, plan.message)
            except TimeoutError:
                raise TimedOut from None
            job, warnings = service.job(call), call.warnings
            charge.add(job.answer_bytes)
            del call, asked
            operation = model.path.removeprefix("/v1/")
            answer = await service.answer(job, operation, deadline, _wait, plan.queue_s)
            begun = time.perf_counter()
            told = endpoints.write(answer.result, False, warnings)
            is_long = job.answer_bytes > PROMPT_BYTES
            parts = await service.aside(is_long, write_response, model, plan, told, more)
        self._protocol.statistics[model.name].answered(answer, started, time.perf_counter() - begun)
        return parts

    def _patience(self, context: ServicerContext) -> float:
        settings = self._service.settings
        left_s = context.time_remaining()
        return settings.default_timeout_s if left_s is None else min(left_s, settings.max_timeout_s)


def _wants_final(asked: Any) -> bool:
    return read_params(asked.parameters).get(FINAL) is True


def _wait(_: Entry[Any, Any]) -> None:
    """Nothing has to be watched: gRPC cancels a call that nobody awaits."""
