"""Inference over gRPC: one request, or a stream of them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import nullcontext
from typing import Any

from grpc.aio import ServicerContext

from rope_core import Result
from service.batching.admission import Charge
from service.batching.batcher import Completed, Entry
from service.endpoints import table
from service.endpoints.builders import PreparedCall
from service.errors import ClientLeft, TimedOut
from service.oip.grpc.codec import (
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
from service.oip.grpc.protobuf_wire import join_streamed, split_request
from service.oip.infer.models import Model, model_of
from service.oip.infer.params import FINAL
from service.oip.state import OipState
from service.wire import Buffer

INLINE_HEADER_BYTES = table.INLINE_PARAMS_BYTES
"""A request whose message, but its raw tensors, is longer takes a thread to be read."""

MEMORY_FACTOR = 34
"""Bytes of memory that reading a message takes for each of its bytes: measured on int64_contents,
the worst, of small numbers."""

INLINE_LIMIT_BYTES = 64 * 2**10
"""An answer that is longer takes a thread to be written."""

MAX_UNANSWERED = 32
"""Requests of a stream that are answered at a time; more are not read."""


Params = Mapping[str, bool]
"""Of an answer, beside those that are the model's."""

Join = Callable[[list[Buffer]], bytes]
"""Makes one message of the parts of a response."""


class Infer:
    """Answers requests to infer."""

    def __init__(self, oip_state: OipState) -> None:
        self._oip_state = oip_state
        self._service = oip_state.service

    async def one(self, request: bytes, context: ServicerContext) -> bytes:
        """Answer one request."""
        charge = Charge(self._service.admission)
        context.add_done_callback(lambda _: charge.give_back())  # called when all is sent
        asked = await self._parse(request, charge)
        return await self._answer(asked, self._patience(context), {}, b"".join, charge)

    async def stream(
        self, requests: AsyncIterator[bytes], context: ServicerContext
    ) -> AsyncIterator[bytes]:
        """Answer requests in their order; that one fails does not end the others.

        Raises:
            ServiceError, RopeError: the first failure, where the client wants it for the stream's.
        """
        metadata = dict(context.invocation_metadata() or ())
        fails = metadata.get("triton_grpc_error") == "true"
        room = asyncio.Semaphore(MAX_UNANSWERED)
        answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()
        charges: dict[asyncio.Task[bytes], Charge] = {}

        def begin(request: bytes) -> asyncio.Task[bytes]:
            charge = Charge(self._service.admission)
            answer = self._streamed(request, self._patience(context), fails, charge)
            task = asyncio.create_task(answer)
            charges[task] = charge
            return task

        async def read() -> None:
            try:
                async for request in while_open(requests, self._oip_state.lifecycle):
                    await room.acquire()
                    answers.put_nowait(begin(request))
            finally:
                answers.put_nowait(None)

        reader = asyncio.create_task(read())
        try:
            while (answer := await answers.get()) is not None:
                yield await answer
                charges.pop(answer).give_back()  # what has been sent
                room.release()
            await reader
        finally:
            reader.cancel()
            for task, charge in charges.items():
                task.cancel()
                charge.give_back()

    async def _streamed(
        self, request: bytes, patience: float, fails: bool, charge: Charge
    ) -> bytes:
        whose: dict[str, Any] = {}
        try:
            asked = await self._parse(request, charge)
            whose = {"id": asked.id, "model_name": asked.message.model_name}
            more = {"triton_final_response": True} if _wants_final(asked.message) else {}
            whose["parameters"] = write_params(more)
            return await self._answer(asked, patience, more, _join_streamed, charge)
        except Exception as failure:
            if fails:
                raise
            _, text = status_of(failure)
            told = ModelStreamInferResponse(error_message=text, infer_response=whose)
            return bytes(told.SerializeToString())

    async def _parse(self, request: bytes, charge: Charge) -> Request:
        split = split_request(request)
        charge.add(len(split.head) * MEMORY_FACTOR + sum(map(len, split.raw)))
        return await self._service.run_blocking(len(split.head) > INLINE_HEADER_BYTES, parse, split)

    async def _answer(
        self, asked: Request, patience: float, more: Params, join: Join, charge: Charge
    ) -> bytes:
        """Return the answer to a request, and count it."""
        model = model_of(asked.message.model_name, asked.message.model_version)
        statistics = self._oip_state.statistics[model.name]
        started = time.perf_counter()
        try:
            answer, write_s, written = await self._infer(model, asked, patience, more, join, charge)
        except asyncio.CancelledError:
            statistics.failed(ClientLeft(), started)
            raise
        except Exception as failure:
            statistics.failed(failure, started)
            raise model.told(failure) from None
        statistics.answered(answer, started, write_s)
        return written

    async def _infer(
        self,
        model: Model,
        asked: Request,
        patience: float,
        more: Params,
        join: Join,
        charge: Charge,
    ) -> tuple[Completed[Result], float, bytes]:
        """Return the answer to a call, the time that it took to write it, and what was written."""
        service, deadline = self._service, time.monotonic() + patience
        try:
            is_long = len(asked.head) > INLINE_HEADER_BYTES or b"shared_memory_region" in asked.head
            # what is not long takes no thread, so that nothing could end it early
            async with asyncio.timeout(patience) if is_long else nullcontext():
                parser = self._oip_state.parser
                plan = await service.run_blocking(is_long, read_plan, model, parser, asked)
                charge.add(plan.region_bytes)
                call = await service.prepare(model.endpoint, plan.message)
        except TimeoutError:
            raise TimedOut from None
        assert isinstance(call, PreparedCall), "all models need the device"
        job, warnings = service.job(call), call.warnings
        charge.add(job.answer_bytes)
        operation = model.path.removeprefix("/v1/")
        answer = await service.run(job, operation, deadline, _wait, plan.queue_s)
        begun = time.perf_counter()
        told = table.write(answer.result, warnings)

        def write() -> bytes:
            return join(write_response(model, plan, told, more))

        written = await service.run_blocking(job.answer_bytes > INLINE_LIMIT_BYTES, write)
        return answer, time.perf_counter() - begun, written

    def _patience(self, context: ServicerContext) -> float:
        settings = self._service.settings
        left_s = context.time_remaining()
        return settings.default_timeout_s if left_s is None else min(left_s, settings.max_timeout_s)


def _join_streamed(parts: list[Buffer]) -> bytes:
    return b"".join(join_streamed(parts))


def _wants_final(asked: Any) -> bool:
    return read_params(asked.parameters).get(FINAL) is True


def _wait(_: Entry[Any, Any]) -> None:
    """Nothing has to be watched: gRPC cancels a call that nobody awaits."""
