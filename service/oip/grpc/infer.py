"""Inference over gRPC: one request, or a stream of requests."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from grpc.aio import ServicerContext

from service.batching.admission import Charge
from service.endpoints.table import INLINE_PARAMS_BYTES
from service.oip.grpc.codec import (
    ParsedRequest,
    decode,
    encode,
    parse,
    read_params,
    write_params,
)
from service.oip.grpc.errors import status_of
from service.oip.grpc.messages import ModelStreamInferResponse
from service.oip.grpc.protobuf_wire import join_stream_response, split_request
from service.oip.grpc.streams import while_open
from service.oip.infer.models import Model, model_of
from service.oip.infer.params import EMPTY_FINAL_RESPONSE
from service.oip.infer.plan import InferRequest
from service.oip.infer.run import INLINE_WRITE_BYTES, run_model
from service.oip.state import OipState
from service.wire import Buffer

MEMORY_FACTOR = 34
"""Bytes of memory for each byte of a message without its raw tensors, when it is parsed.

Measured on int64_contents of small numbers, the worst case.
"""

MAX_PENDING = 32
"""Most requests of a stream that run at a time; more are not read."""

Join = Callable[[list[Buffer]], bytes]
"""Joins the parts of a response to a message."""


class InferMethods:
    """Answers the methods that infer."""

    def __init__(self, oip_state: OipState) -> None:
        self._oip_state = oip_state
        self._handler = oip_state.handler

    async def unary(self, body: bytes, context: ServicerContext) -> bytes:
        """Answer one request."""
        charge = Charge(self._handler.admission)
        context.add_done_callback(lambda _: charge.give_back())  # when the response is sent
        deadline = self._deadline(context)
        request = await self._parse(body, deadline, charge)
        return await self._infer(request, deadline, charge, {}, b"".join)

    async def stream(
        self, bodies: AsyncIterator[bytes], context: ServicerContext
    ) -> AsyncIterator[bytes]:
        """Answer requests in their order. A request that fails does not end the stream.

        Raises:
            ServiceError, RopeError: a request failed, and the client's metadata says that the
                first failure ends the stream.
        """
        metadata = dict(context.invocation_metadata() or ())
        ends_on_failure = metadata.get("triton_grpc_error") == "true"
        free = asyncio.Semaphore(MAX_PENDING)
        responses: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()
        charges: dict[asyncio.Task[bytes], Charge] = {}

        def start(body: bytes) -> asyncio.Task[bytes]:
            charge = Charge(self._handler.admission)
            deadline = self._deadline(context)
            response = self._stream_response(body, deadline, charge, ends_on_failure)
            task = asyncio.create_task(response)
            charges[task] = charge
            return task

        async def read() -> None:
            try:
                async for body in while_open(bodies, self._oip_state.lifecycle):
                    await free.acquire()
                    responses.put_nowait(start(body))
            finally:
                responses.put_nowait(None)

        reader = asyncio.create_task(read())
        try:
            while (response := await responses.get()) is not None:
                yield await response
                charges.pop(response).give_back()  # the response is sent
                free.release()
            await reader
        finally:
            reader.cancel()
            for task, charge in charges.items():
                task.cancel()
                charge.give_back()

    async def _stream_response(
        self, body: bytes, deadline: float, charge: Charge, raises: bool
    ) -> bytes:
        """Return the response to one request of a stream: its answer, or its failure."""
        described: dict[str, Any] = {}
        try:
            request = await self._parse(body, deadline, charge)
            described = {"id": request.split.id, "model_name": request.message.model_name}
            options = read_params(request.message.parameters)
            is_final = options.get(EMPTY_FINAL_RESPONSE) is True
            params = {"triton_final_response": True} if is_final else {}
            described["parameters"] = write_params(params)
            return await self._infer(request, deadline, charge, params, _join_stream)
        except Exception as failure:
            if raises:
                raise
            _, text = status_of(failure)
            response = ModelStreamInferResponse(error_message=text, infer_response=described)
            return bytes(response.SerializeToString())

    async def _parse(self, body: bytes, deadline: float, charge: Charge) -> ParsedRequest:
        split = split_request(body)
        charge.add(len(split.header) * MEMORY_FACTOR + sum(map(len, split.raw)))
        if len(split.header) > INLINE_PARAMS_BYTES:
            return await self._handler.to_thread(deadline, parse, split)
        return parse(split)

    async def _infer(
        self,
        request: ParsedRequest,
        deadline: float,
        charge: Charge,
        params: Mapping[str, bool],
        join: Join,
    ) -> bytes:
        """Return the response to a request, with `params` beside those of the answer."""
        message = request.message
        model = model_of(message.model_name, message.model_version)
        with self._oip_state.statistics[model.name].count() as counted:
            request_id, plan, served = await run_model(
                self._handler,
                model,
                self._decode(model, request, deadline),
                deadline=deadline,
                charge=charge,
            )
            begun = time.perf_counter()

            def write() -> bytes:
                return join(encode(model, request_id, plan, served.message, params))

            is_long = served.num_bytes > INLINE_WRITE_BYTES
            response = await self._handler.to_thread(None, write) if is_long else write()
            counted.answered(served, time.perf_counter() - begun)
        return response

    async def _decode(self, model: Model, request: ParsedRequest, deadline: float) -> InferRequest:
        parser, header = self._oip_state.parser, request.split.header
        if len(header) > INLINE_PARAMS_BYTES or b"shared_memory_region" in header:
            return await self._handler.to_thread(deadline, decode, model, parser, request)
        return decode(model, parser, request)

    def _deadline(self, context: ServicerContext) -> float:
        settings = self._handler.settings
        left_s: float | None = context.time_remaining()
        if left_s is None:
            return time.monotonic() + settings.default_timeout_s
        return time.monotonic() + min(left_s, settings.max_timeout_s)


def _join_stream(parts: list[Buffer]) -> bytes:
    return b"".join(join_stream_response(parts))
