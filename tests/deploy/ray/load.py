"""Requests from several threads, each answer compared with the right one."""

import threading
import time
from collections import Counter
from typing import Any

import numpy as np

from rope_client import Client, RetryPolicy, RopeClientError

Q = np.random.default_rng(0).standard_normal((64, 8, 64)).astype(np.float32)
ROPE = {"theta": 500_000.0}


def rotate(client: Client) -> Any:
    """Return a rotated tensor of 128 KiB."""
    return client.rotate(q=Q, rope=ROPE).q


class Load:
    """Threads that send requests until `end`, without retries.

    Args:
        url: of the service.
        right: the right answer.
        num_threads: each sends one request at a time.
    """

    def __init__(self, url: str, right: Any, *, num_threads: int = 4) -> None:
        self.outcomes: Counter[str] = Counter()
        self.seconds: list[float] = []
        self._url, self._right = url, right
        self._ended = threading.Event()
        self._starts: dict[int, float] = {}
        self._threads = [threading.Thread(target=self._run) for _ in range(num_threads)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Stop, and wait for the last answers."""
        self._ended.set()
        for thread in self._threads:
            thread.join(60)
        if any(thread.is_alive() for thread in self._threads):
            raise SystemExit("a request hangs")

    def rate(self) -> float:
        """Return answers a second."""
        return self.outcomes["ok"] * len(self._threads) / sum(self.seconds)

    def longest_wait_s(self) -> float:
        """Return the age of the oldest request in flight."""
        return time.monotonic() - min(list(self._starts.values()), default=time.monotonic())

    def _run(self) -> None:
        with Client(self._url, retry=RetryPolicy(max_attempts=1), timeout_s=30) as client:
            while not self._ended.is_set():
                start = self._starts[threading.get_ident()] = time.monotonic()
                outcome = self._send(client)
                self.outcomes[outcome] += 1
                self.seconds.append(time.monotonic() - start)
                del self._starts[threading.get_ident()]

    def _send(self, client: Client) -> str:
        try:
            return "ok" if np.array_equal(rotate(client), self._right) else "wrong"
        except RopeClientError as failure:
            return " ".join(map(str, (type(failure).__name__, failure.status, failure.code)))
