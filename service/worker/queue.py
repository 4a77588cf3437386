"""The queue before the worker. It has the limits, the order and the deadlines of the device's."""

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock

from service.access.tenant import Tenant
from service.batching.batcher import Batcher
from service.batching.load_estimate import LoadEstimate
from service.batching.run import Run
from service.errors import ClientLeft
from service.observability.metrics import Metrics
from service.wire import Message
from service.worker.frames import ABANDONED, error_of
from service.worker.process import WorkerProcess

SECONDS = 0.5
"""Estimated time of a call with few tokens."""

BYTES_PER_S = 100e6
"""Estimated bytes of the tensors of a call that are read in a second."""

GRACE_S = 5.0
"""Time in which an abandoned computation must stop; then the process is killed."""

IDLE_S = 600.0
"""Time without a call after which the process ends, which frees its memory."""


@dataclass(slots=True, eq=False)
class WorkerJob:
    """A call for the worker, as the batcher needs it. Calls do not share runs."""

    path: str
    """Path of the endpoint."""

    message: Message
    num_bytes: int

    number: int = field(default=0, init=False)
    """Place in the order of all calls that have begun; 0: it waits for its turn or for the start
    of the process."""

    is_abandoned: bool = field(default=False, init=False)
    """Whether nobody waits for the answer."""

    @property
    def seconds(self) -> float:
        """Estimated time of the call."""
        return SECONDS + self.num_bytes / BYTES_PER_S

    @property
    def kind(self) -> Hashable:
        """Calls of one path have estimates with about the same error."""
        return self.path

    @property
    def batch_key(self) -> Hashable:
        """No other call has this key."""
        return self

    num_tokens = 1


class WorkerQueue:
    """Runs calls in the worker process, one at a time. For the event loop's thread.

    Args:
        process: runs a call.
        max_queue_s: longest predicted wait of a call.
        max_queue_calls: most calls that wait.
        add_compute: called with the tenant of a call and its time in seconds.
    """

    def __init__(
        self,
        process: WorkerProcess,
        *,
        max_queue_s: float,
        max_queue_calls: int,
        add_compute: Callable[[Tenant, float], None],
    ) -> None:
        self._process = process
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="worker")
        self._lock = Lock()
        self._running: WorkerJob | None = None
        self._num_begun = 0
        self._idle_timer: asyncio.TimerHandle | None = None
        self.batcher: Batcher[WorkerJob, Message] = Batcher(
            self._run,
            self._executor,
            max_inflight=1,
            inline_limit_s=0.0,
            stuck_s=None,
            on_failure=lambda _: None,
            max_batch_tokens=1,
            max_batch_bytes=1,
            max_queue_calls=max_queue_calls,
            load=LoadEstimate(max_queue_s),
            add_compute=add_compute,
            metrics=Metrics(),  # those of the service are about the device
        )

    def release(self, job: WorkerJob) -> None:
        """Stop the computation of a call that nobody waits for any more, if it goes on."""
        loop = asyncio.get_running_loop()
        with self._lock:
            job.is_abandoned = True
            is_running = self._running is job and job.number > 0
        if is_running:
            self._process.abandon(job.number)
            loop.call_later(GRACE_S, self._kill, job)
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._idle_timer = loop.call_later(IDLE_S, self._end_idle)

    def close(self) -> None:
        """End the worker. Calls that wait or run fail."""
        self.batcher.close()
        self._process.kill(for_good=True)
        self._end_idle()
        self._executor.shutdown(wait=False)
        if self._idle_timer is not None:
            self._idle_timer.cancel()

    def _end_idle(self) -> None:
        with self._lock:
            if self._running is None:
                self._process.stop()

    def _kill(self, job: WorkerJob) -> None:
        with self._lock:
            if self._running is job:
                self._process.kill()

    def _run(self, jobs: Sequence[WorkerJob]) -> Run[Message | Exception]:
        """Run a call, on the thread of the executor."""
        (job,) = jobs
        with self._lock:
            if job.is_abandoned:
                raise ClientLeft
            self._running = job
        started = time.perf_counter()
        try:
            self._process.start()  # goes on if nobody waits any more: the next call needs it
            with self._lock:
                if job.is_abandoned:
                    raise ClientLeft
                self._num_begun += 1
                job.number = self._num_begun
            fields, answer = self._process.answer(job.path, job.message, job.number)
        finally:
            with self._lock:
                self._running = None
        if fields["outcome"] == ABANDONED:
            raise ClientLeft
        if fields["outcome"] != "answer":
            raise error_of(fields)
        seconds = fields["seconds"]
        return Run([answer], time.perf_counter() - started - seconds, seconds)
