"""Inference over gRPC: one request, or a stream of requests."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from typing import Any

from service.access.tenant import ANONYMOUS
from service.batching.admission import Charge
from service.endpoints.table import INLINE_PARAMS_BYTES
from service.inference.handler import RequestContext
from service.observability.request_log import is_server_error
from service.oip import validate
from service.oip.grpc import codec
from service.oip.grpc.errors import status_of
from service.oip.grpc.messages import ModelStreamInferResponse
from service.oip.grpc.planned import PlannedInfer
from service.oip.grpc.protobuf_wire import join_stream_response, split_request
from service.oip.grpc.rpc import Rpc
from service.oip.grpc.streams import while_open
from service.oip.infer.models import EndpointModel, Model
from service.oip.infer.params import EMPTY_FINAL_RESPONSE
from service.oip.infer.plan import InferRequest
from service.oip.infer.run import INLINE_WRITE_BYTES, run_model
from service.oip.sequences import Place
from service.oip.state import OipState
from service.resident_memory import ResidentLimit
from service.wire import Buffer

log = logging.getLogger("rope.requests")

MEMORY_FACTOR = 36
"""Bytes of memory for each byte of a message without its raw tensors, when it is parsed.

Measured on configs of 8 MiB of small objects, the worst case; int64_contents of small numbers take
34.
"""

ANSWER_COPIES = 2
"""Copies of an answer in memory: tensors and message, then message and the core's copy of it."""

MAX_PENDING = 32
"""Most requests of a stream that run at a time; further requests are not read."""

Join = Callable[[list[Buffer]], bytes]
"""Joins the parts of a response to a message."""


class InferMethods:
    """Answers the methods that infer.

    Messages that are being received, or were received and are not charged yet, take memory beyond
    that of the charged requests. So a large answer is begun only if there is memory for it.

    Args:
        oip_state: what all methods share.
        limit: limit of the resident memory; None: large answers are only charged.
    """

    def __init__(self, oip_state: OipState, limit: ResidentLimit | None = None) -> None:
        self._oip_state = oip_state
        self._limit = limit
        self._handler = oip_state.handler
        self._planned = PlannedInfer(oip_state)

    def unary(self, body: bytes, rpc: Rpc) -> Coroutine[Any, Any, bytes] | None:
        """Answer one request."""
        return None if self._planned.begin(rpc, body) else self._respond(body, rpc)

    async def _respond(self, body: bytes, rpc: Rpc) -> bytes:
        context = self._context(rpc, rpc.log_fields)
        rpc.add_done_callback(context.charge.release)  # the response is sent
        parsing = self._parse(context, body)
        del body  # the tensors of the request are freed when the call has run
        return await self._infer(context, await parsing, {}, b"".join)

    async def stream(self, bodies: AsyncIterator[bytes], rpc: Rpc) -> AsyncGenerator[bytes, None]:
        """Answer requests in their order. A request that fails does not end the stream.

        Requests of a sequence also run in their order.

        Raises:
            ServiceError, RopeError: a request failed, and the client's metadata says that the
                first failure ends the stream.
        """
        metadata = dict(rpc.metadata)
        ends_on_failure = metadata.get("triton_grpc_error") == "true"
        free = asyncio.Semaphore(MAX_PENDING)
        responses: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()
        charges: dict[asyncio.Task[bytes], Charge] = {}

        async def read() -> None:
            place = None
            try:
                async for body in while_open(bodies, self._oip_state.lifecycle):
                    await free.acquire()
                    context = self._context(rpc, {"bytes": len(body)})
                    place = Place(place)
                    response = self._stream_response(context, rpc, body, place, ends_on_failure)
                    task = asyncio.create_task(response)
                    charges[task] = context.charge
                    responses.put_nowait(task)
            finally:
                responses.put_nowait(None)

        reader = asyncio.create_task(read())
        try:
            while (response := await responses.get()) is not None:
                yield await response
                charges.pop(response).release()  # the response is sent
                free.release()
            await reader
        finally:
            reader.cancel()
            for task, charge in charges.items():
                task.cancel()
                charge.release()

    async def _stream_response(
        self, context: RequestContext, rpc: Rpc, body: bytes, place: Place, raises: bool
    ) -> bytes:
        """Return the response to one request of a stream: its answer, or its failure."""
        described: dict[str, Any] = {}
        tenant, quotas = context.tenant, self._handler.gate.quotas
        try:
            if tenant is ANONYMOUS:
                return await self._infer_in_stream(context, body, place, described)
            with quotas.request(tenant, len(body)):
                quotas.add_bytes(tenant, len(body))
                return await self._infer_in_stream(context, body, place, described)
        except Exception as failure:
            if raises:
                raise
            status, text, code = status_of(failure)
            level = logging.WARNING if is_server_error(status.name) else logging.INFO
            (_, request_id), *_ = rpc.trailing_metadata
            self._handler.metrics.count_refusal(code, status.name)
            fields = {"request_id": request_id, "status": status.name, "code": code}
            fields |= {"detail": text, **(context.log_fields or {})}
            log.log(level, "a request of a stream failed", extra={"fields": fields})
            response = ModelStreamInferResponse(error_message=text, infer_response=described)
            return bytes(response.SerializeToString())
        finally:
            place.take()

    async def _infer_in_stream(
        self, context: RequestContext, body: bytes, place: Place, described: dict[str, Any]
    ) -> bytes:
        """Return the answer to one request of a stream; fill `described` with its id and model."""
        request = await self._parse(context, body)
        described["id"] = request.split.id[: validate.MAX_NAME_LENGTH]
        described["model_name"] = request.message.model_name[: validate.MAX_NAME_LENGTH]
        options = codec.read_params(request.message.parameters)
        is_final = options.get(EMPTY_FINAL_RESPONSE) is True
        params = {"triton_final_response": True} if is_final else {}
        described["parameters"] = codec.write_params(params)
        return await self._infer(context, request, params, join_stream_response, place)

    def _context(self, rpc: Rpc, log_fields: dict[str, object]) -> RequestContext:
        """Return the context of a request that has just arrived."""
        deadline = self._handler.deadline(rpc.time_remaining())
        charge = Charge(self._handler.admission, rpc.tenant, resident_limit=self._limit)
        return RequestContext(
            deadline,
            charge,
            answer_copies=ANSWER_COPIES,
            tenant=rpc.tenant,
            log_fields=log_fields,
        )

    async def _parse(self, context: RequestContext, body: bytes) -> codec.ParsedRequest:
        split = split_request(body)
        context.charge.add(sum(map(len, split.raw)), is_resident=True)
        context.charge.add(len(split.header) * MEMORY_FACTOR)
        if len(split.header) > INLINE_PARAMS_BYTES:
            return await self._handler.to_thread(context.deadline, codec.parse, split)
        return codec.parse(split)

    async def _infer(
        self,
        context: RequestContext,
        request: codec.ParsedRequest,
        params: Mapping[str, bool],
        join: Join,
        place: Place | None = None,
    ) -> bytes:
        """Return the response to a request; `params` are added to those of the answer."""
        message, handler, oip_state = request.message, self._handler, self._oip_state
        model = oip_state.repository.find(message.model_name, message.model_version)
        if place is not None and isinstance(model, EndpointModel):
            place.take()
        statistics = oip_state.statistics[model.name]
        with statistics.count(context.deadline) as started:
            handler.batcher.check(context.deadline, context.tenant)
            reading = self._decode(context, model, request)
            del request
            request_id, plan, served = await run_model(oip_state, model, context, reading, place)
            write_started = time.monotonic()

            def write() -> bytes:
                return join(codec.encode(model, request_id, plan, served.message, params))

            is_long = served.num_bytes > INLINE_WRITE_BYTES
            response = await handler.to_thread(None, write) if is_long else write()
            context.charge.settle()
            statistics.add_success(served.completed, started, write_started)
        return response

    async def _decode(
        self, context: RequestContext, model: Model, request: codec.ParsedRequest
    ) -> InferRequest:
        parser, header = self._oip_state.parser, request.split.header
        if len(header) > INLINE_PARAMS_BYTES or b"shared_memory_region" in header:
            deadline = context.deadline
            return await self._handler.to_thread(deadline, codec.decode, model, parser, request)
        return codec.decode(model, parser, request)
