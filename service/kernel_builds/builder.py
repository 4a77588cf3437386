"""Builds the kernels that calls miss, on a thread of its own, so that no call waits for a build."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable

from rope_core.builds import Build
from service.observability.metrics import Metrics

log = logging.getLogger("rope.kernels")

MAX_WAITING = 64
"""Builds in the queue, at most. Others are dropped until a call asks for them again."""

RETRY_S = 60.0
"""Seconds until a failed build may be started again: memory or disk may be free by then."""


class KernelBuilder:
    """A queue of builds, and one thread that runs while the queue is not empty.

    Args:
        metrics: where builds are counted and timed.
        clock: returns seconds.
    """

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self.on_progress: Callable[[], None] = lambda: None
        """Called on the builder's thread when a build begins and when it ends."""
        self._metrics = metrics
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Hashable, Build]] = deque()
        self._requested: set[Hashable] = set()  # waiting, being built, or built
        self._retry_at: dict[Hashable, float] = {}
        self._busy = False
        self.num_requests = 0
        """Builds that calls have asked for so far, repeated requests included."""
        self.closed = False
        """Whether `close` was called."""

    @property
    def num_waiting(self) -> int:
        """Builds that have not begun."""
        return len(self._waiting)

    def start(self, key: Hashable, build: Build) -> None:
        """Queue a build and return at once.

        Nothing happens if the key is queued, being built or built, if its build has failed less
        than `RETRY_S` ago, or if the queue is full.
        """
        with self._changed:
            self.num_requests += 1
            if key in self._requested or len(self._waiting) >= MAX_WAITING or self.closed:
                return
            if self._clock() < self._retry_at.get(key, 0.0):
                return
            self._requested.add(key)
            self._waiting.append((key, build))
            if not self._busy:
                self._busy = True
                # a daemon: the end of the process does not wait for a build
                threading.Thread(target=self._work, name="kernel-builder", daemon=True).start()

    def wait(self) -> None:
        """Wait until all builds are done, or for `close`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy or self.closed)

    def close(self) -> None:
        """Drop the queue and take no builds; one that is running is not waited for."""
        with self._changed:
            self.closed = True
            self._waiting.clear()
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._busy = False
                    self._changed.notify_all()
                    return
                key, build = self._waiting.popleft()
            self.on_progress()
            self._build(key, build)
            self.on_progress()

    def _build(self, key: Hashable, build: Build) -> None:
        started = self._clock()
        failure: Exception | None = None
        try:
            build()
        except Exception as error:  # other backends compute the calls meanwhile
            failure = error
            with self._changed:
                self._requested.discard(key)
                self._retry_at[key] = self._clock() + RETRY_S
        seconds = self._clock() - started
        self._metrics.kernel_builds.labels("failed" if failure else "built").inc()
        self._metrics.kernel_build_seconds.observe(seconds)
        fields = {"kernel": str(key), "seconds": round(seconds, 3)}
        if failure is None:
            log.info("kernel built", extra={"fields": fields})
        else:
            log.error("kernel build failed", exc_info=failure, extra={"fields": fields})
