"""What every request goes through, whatever protocol brought it: message, call, answer."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeVar

from rope_core import Result, Table
from service.batching.admission import Admission
from service.batching.batcher import Batcher, Completed, Entry
from service.buffer_pool import BufferPool
from service.device import KernelBuilder
from service.endpoints.builders import PreparedCall
from service.endpoints.rope_resolver import RopeResolver
from service.endpoints.table import INLINE_PARAMS_BYTES, Endpoint
from service.errors import ClientLeft
from service.inference.backend_policy import BackendPolicy
from service.inference.engine import Engine, Job
from service.observability.metrics import Metrics
from service.settings import Settings
from service.wire import Message

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class InferenceService:
    """What all protocols share, made at start."""

    settings: Settings
    engine: Engine
    choice: BackendPolicy
    batcher: Batcher[Job, Result]
    admission: Admission
    buffer_pool: BufferPool
    builder: KernelBuilder
    rope_resolver: RopeResolver
    io_executor: Executor
    """Threads that read bodies which would hold up the event loop."""
    metrics: Metrics

    async def run_blocking(self, is_long: bool, work: Callable[..., R], *arguments: Any) -> R:
        """Do some work of reading or writing: on the event loop, or beside it where it is long."""
        if not is_long:
            return work(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self.io_executor, work, *arguments)

    async def prepare(self, endpoint: Endpoint[Any], message: Message) -> PreparedCall | Message:
        """Return the call that a message describes, or the answer where it needs no device.

        Raises:
            UnknownName, TooLarge, RopeError: it asks for nothing that there is.
        """
        is_long = endpoint.is_slow or len(message.params.key) > INLINE_PARAMS_BYTES
        return await self.run_blocking(is_long, endpoint.read, message, self.rope_resolver)

    def job(self, asked: PreparedCall) -> Job:
        """Return the work that a call takes.

        Raises:
            ConfigError: it names a backend, and must not.
            TooLarge: it would take too long, or its answer be too large.
        """
        return self.engine.job(asked.call, self.choice.of(asked.call, asked.backend))

    async def run(
        self,
        job: Job,
        operation: str,
        deadline: float,
        on_wait: Callable[[Entry[Job, Result]], None],
        queue_s: float | None = None,
    ) -> Completed[Result]:
        """Return the answer to a job; where the asker is cancelled, the job leaves the queue.

        Args:
            job: what to do.
            operation: what metrics call it.
            deadline: time of `time.monotonic` beyond which nobody wants the answer.
            on_wait: told of the job's entry if it has to wait.
            queue_s: longest that it may wait for its run.

        Raises:
            Overloaded, Expired, TimedOut, ShuttingDown, DeviceLost, ...: there is no answer.
        """
        entry = self.batcher.submit(job, deadline, on_wait)
        expiry = None
        if queue_s is not None:
            loop = asyncio.get_running_loop()
            expiry = loop.call_later(queue_s, self.batcher.expire, entry)
        try:
            run = await entry.future
        except asyncio.CancelledError:
            self.batcher.withdraw(entry, ClientLeft())
            raise
        finally:
            if expiry is not None:
                expiry.cancel()
        if done_by := backend_of(run.result):
            self.metrics.backend_calls(operation, done_by).inc()
        return run


def backend_of(result: Result) -> str:
    """Return the name of the backend, "" where it took none."""
    return "" if isinstance(result, Table) else result.backend
