"""The path of every request, whatever its protocol: message, call, run on the device, answer."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

from rope_core import Result, Table
from service.access.gate import Gate
from service.access.tenant import ANONYMOUS, Tenant
from service.batching.admission import Admission, Charge
from service.batching.batcher import Batcher
from service.batching.call_queue import Batchable, FutureEntry
from service.batching.run import Completed
from service.buffer_pool import BufferPool
from service.endpoints import table
from service.endpoints.builders import PreparedCall
from service.endpoints.rope_resolver import RopeResolver
from service.endpoints.table import INLINE_PARAMS_BYTES, MAX_PARAMS_BYTES, Endpoint
from service.endpoints.tensor_layout import answer_as_bhsd, with_contiguous_heads
from service.errors import ClientLeft, TimedOut, TooLarge
from service.inference.backend_policy import BackendPolicy
from service.inference.engine import Engine, Job
from service.kernel_builds.builder import KernelBuilder
from service.observability.metrics import Metrics
from service.observability.request_log import describe_shapes
from service.settings import Settings
from service.slab_pool import SlabPool
from service.wire import Message
from service.worker.queue import WorkerJob, WorkerQueue

J = TypeVar("J", bound=Batchable)
R = TypeVar("R")

INLINE_COPY_BYTES = 256 * 2**10
"""Most bytes of heads that are transposed on the event loop."""


class RequestContext(NamedTuple):
    """The deadline, the memory charge and the disconnect of one request."""

    deadline: float
    """Time of `time.monotonic` after which the client no longer waits."""

    charge: Charge
    """The request's share of the memory budget."""

    disconnected: Callable[[], Coroutine[Any, Any, None]] | None = None
    """Awaited while the call waits for the device; returns when the client has disconnected. None
    where the protocol cancels the request instead."""

    tenant: Tenant = ANONYMOUS
    """The tenant of the request."""

    answer_copies: int = 1
    """Copies of the answer that are in memory at a time; each is charged."""

    log_fields: dict[str, object] | None = None
    """Further fields of the log line, which are written if the request fails; None: no line."""


class Served(NamedTuple):
    """The answer to a request, before an adapter writes it."""

    message: Message
    num_bytes: int
    """Upper bound of the bytes of its tensors."""

    completed: Completed[Any] | None = None
    """The run on the device or in the worker; None where the request needed neither."""

    backend: str = ""
    """Name of the backend that computed; empty where none did."""


@dataclass(frozen=True, slots=True)
class InferenceHandler:
    """Answers the requests of all protocols. An adapter decodes, calls `infer`, and encodes."""

    settings: Settings
    engine: Engine
    backend_policy: BackendPolicy
    batcher: Batcher[Job, Result]
    worker_queue: WorkerQueue
    """Runs calls that take seconds."""
    admission: Admission
    buffer_pool: BufferPool
    slab_pool: SlabPool
    builder: KernelBuilder
    rope_resolver: RopeResolver
    io_executor: Executor
    """Threads for reading and writing that would block the event loop."""
    metrics: Metrics
    gate: Gate
    """Authenticates requests, and has the quotas."""

    async def infer(
        self,
        endpoint: Endpoint[Any],
        message: Message,
        context: RequestContext,
        memory_factor: int,
        queue_s: float | None = None,
    ) -> Served:
        """Answer a request.

        The caller must drop its own reference to `message`: the tensors of a request are
        freed when its call has run.

        Args:
            endpoint: what the request asks for.
            message: its tensors and parameters.
            context: of the request; the memory of the answer is added to its charge.
            memory_factor: bytes of memory for each byte of the answer, when it is encoded.
            queue_s: longest wait for the device; None: until the deadline.

        Raises:
            UnknownName, RopeError: a tensor or a parameter does not fit the endpoint.
            TooLarge: the call or its answer is over a limit.
            TimedOut, Expired: the deadline has passed, or `queue_s`.
            Overloaded, ShuttingDown, DeviceFull, DeviceLost, DeviceStuck: it cannot be run.
            ClientLeft: the client has disconnected.
        """
        prepared: PreparedCall | Message | None = None
        backend: str | None = None
        try:
            if endpoint.needs_worker:
                return await self._infer_in_worker(endpoint, message, context, memory_factor)
            if endpoint.is_slow or len(message.params.key) > INLINE_PARAMS_BYTES:
                read, deadline = endpoint.read, context.deadline
                prepared = await self.to_thread(deadline, read, message, self.rope_resolver)
            else:
                prepared = endpoint.read(message, self.rope_resolver)
            scratch_bytes = 0
            if isinstance(prepared, Message):
                num_bytes = sum(tensor.nbytes for tensor in prepared.tensors.values())
            else:
                backend = self.backend_policy.choose(prepared.call, prepared.backend)
                left_s = context.deadline - time.monotonic()
                job = self.engine.job(prepared.call, backend, left_s)
                num_bytes, scratch_bytes = job.answer_bytes, job.scratch_bytes
                if prepared.is_bhsd:  # copies of the heads and of the answer
                    scratch_bytes += job.num_bytes + num_bytes
            if num_bytes > self.max_bytes(memory_factor):
                raise self.answer_too_large(num_bytes, memory_factor)  # noqa: TRY301
            context.charge.add(num_bytes * memory_factor * context.answer_copies + scratch_bytes)
            if isinstance(prepared, Message):
                return Served(prepared, num_bytes)
            if prepared.is_bhsd:
                call = await self._copy(job.num_bytes, with_contiguous_heads, job.call)
                job = replace(job, call=call)
            future = asyncio.get_running_loop().create_future()
            entry: FutureEntry[Job, Result] = FutureEntry(
                job, time.monotonic(), context.deadline, future, tenant=context.tenant
            )
            completed = await run_entry(self.batcher, entry, context, queue_s)
            result = completed.result
            backend = "" if isinstance(result, Table) else result.backend
            if backend:
                self.metrics.backend_calls(endpoint.operation, backend).inc()
            answer = table.write(result, prepared)
            if prepared.is_bhsd:
                answer = await self._copy(num_bytes, answer_as_bhsd, answer)
            return Served(answer, num_bytes, completed, backend)
        except Exception:
            if context.log_fields is not None:
                context.log_fields.update(_describe_request(message, prepared, backend))
            raise

    def deadline(self, timeout_s: float | None) -> float:
        """Return the time of `time.monotonic` until which the client of a new request waits."""
        settings = self.settings
        if timeout_s is None:
            return time.monotonic() + settings.default_timeout_s
        return time.monotonic() + min(timeout_s, settings.max_timeout_s)

    def max_bytes(self, memory_factor: int) -> int:
        """Return the limit of a body or an answer that takes so much memory for each byte."""
        settings = self.settings
        return settings.max_json_bytes if memory_factor > 1 else settings.max_body_bytes

    def too_large(self, what: str, memory_factor: int, got: str) -> TooLarge:
        """Return the error of a body or an answer that is larger than `max_bytes` allows."""
        remedy = "use smaller tensors, or raise ROPE_MAX_BODY_BYTES"
        if memory_factor > 1:
            remedy = (
                "use safetensors (/v1) or binary tensor data (/v2), of which "
                f"{self.max_bytes(1):,} are allowed, or raise ROPE_MAX_JSON_BYTES"
            )
        return TooLarge(what, self.max_bytes(memory_factor), got, remedy)

    async def to_thread(self, deadline: float | None, work: Callable[..., R], *arguments: Any) -> R:
        """Run work that would block the event loop on a thread.

        Raises:
            TimedOut: the deadline passed before the work was done.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
                return await loop.run_in_executor(self.io_executor, work, *arguments)
        except TimeoutError:
            raise TimedOut from None

    async def _copy(self, num_bytes: int, copy: Callable[..., R], value: Any) -> R:
        """Return `copy` of a value; many bytes are copied on a thread."""
        if num_bytes <= INLINE_COPY_BYTES:
            return copy(value)
        return await self.to_thread(None, copy, value)

    async def _infer_in_worker(
        self, endpoint: Endpoint[Any], message: Message, context: RequestContext, memory_factor: int
    ) -> Served:
        """Answer a request of an endpoint that takes seconds."""
        if len(message.params.key) > MAX_PARAMS_BYTES:
            raise endpoint.too_long(message.params)
        num_bytes = sum(tensor.nbytes for tensor in message.tensors.values())
        # the worker has a copy and an answer; an answer is no larger than its request
        copies = 2 + memory_factor * context.answer_copies
        context.charge.add(copies * num_bytes)
        job = WorkerJob(endpoint.path, message, num_bytes)
        try:
            future = asyncio.get_running_loop().create_future()
            entry: FutureEntry[WorkerJob, Message] = FutureEntry(
                job, time.monotonic(), context.deadline, future, tenant=context.tenant
            )
            completed = await run_entry(self.worker_queue.batcher, entry, context)
        finally:
            self.worker_queue.release(job)
        answer = completed.result
        num_bytes = sum(tensor.nbytes for tensor in answer.tensors.values())
        if num_bytes > self.max_bytes(memory_factor):
            raise self.answer_too_large(num_bytes, memory_factor)
        return Served(answer, num_bytes, completed)

    def answer_too_large(self, num_bytes: int, memory_factor: int) -> TooLarge:
        """Return the error of an answer whose tensors are over the limit."""
        what = f"an answer{' in JSON' if memory_factor > 1 else ''}, in bytes,"
        return self.too_large(what, memory_factor, f"{num_bytes:,}")


async def run_entry(
    batcher: Batcher[J, R],
    entry: FutureEntry[J, R],
    context: RequestContext,
    queue_s: float | None = None,
) -> Completed[R]:
    """Return the answer to a call, and withdraw the call when this coroutine is cancelled.

    Args:
        batcher: runs the call.
        entry: the call, not in the queue yet.
        context: of the request.
        queue_s: longest wait for the device; None: until the deadline.
    """
    watchers: list[asyncio.Task[None]] = []

    def watch(entry: FutureEntry[J, R]) -> None:
        watchers.append(asyncio.create_task(_withdraw_after(batcher, context, entry)))

    if context.disconnected is not None:
        entry.start_watching = watch
    batcher.enqueue(entry)
    expiry = None
    if queue_s is not None:
        expiry = asyncio.get_running_loop().call_later(queue_s, batcher.expire, entry)
    try:
        return await entry.future
    except asyncio.CancelledError:
        batcher.withdraw(entry, ClientLeft())
        raise
    finally:
        if expiry is not None:
            expiry.cancel()
        for watcher in watchers:
            watcher.cancel()
        watchers.clear()  # breaks the cycle with the entry: its tensors are freed at once


async def _withdraw_after(
    batcher: Batcher[J, R], context: RequestContext, entry: FutureEntry[J, R]
) -> None:
    assert context.disconnected is not None, "checked by the caller"
    await context.disconnected()
    batcher.withdraw(entry, ClientLeft())


def _describe_request(
    message: Message, prepared: PreparedCall | Message | None, backend: str | None
) -> dict[str, object]:
    """Return the log fields of a request that fails."""
    tensors = ((name, x.dtype, x.shape) for name, x in message.tensors.items())
    fields: dict[str, object] = {"shapes": describe_shapes(tensors)}
    if isinstance(prepared, PreparedCall):
        fields["backend"] = prepared.backend or backend or "auto"
    return fields
