"""Restart the only replica under load of rope_client: `python -m tests.faults.client_restarts 4`.

Both clients have their default settings. Every second restart is a SIGKILL, which resets
connections in the middle of calls; the others are a SIGTERM, after which the service drains. No
call may fail, and each answer must be right.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import numpy as np

from rope_client import AsyncClient, Client, RopeClientError, Rotated
from tests.conftest import ROOT
from tests.free_ports import free_port

TASKS, THREADS = 100, 4
SECONDS_BETWEEN = 3
SETTINGS = {
    "ROPE_DEVICE": "cpu",
    "ROPE_GRPC_PORT": "0",
    "ROPE_DRAIN_DELAY_S": "0",
    "ROPE_LOG_LEVEL": "warning",
}
Q = np.arange(4096, dtype=np.float32).reshape(1, 8, 8, 64)


class Load:
    """Calls of both clients until `end` is set, counted by outcome."""

    def __init__(self, url: str) -> None:
        self.outcomes: Counter[str] = Counter()
        self.longest_s = 0.0
        self.end = asyncio.Event()
        self._url = url
        with Client(url) as client:
            self._expected = client.rotate(Q).q

    async def run(self) -> None:
        """Keep `TASKS` tasks of one client and `THREADS` threads of another busy."""
        with Client(self._url) as client:
            async with AsyncClient(self._url) as asynchronous, asyncio.TaskGroup() as group:
                for _ in range(TASKS):
                    group.create_task(self._ask("async", lambda: asynchronous.rotate(Q)))
                for _ in range(THREADS):
                    group.create_task(
                        self._ask("sync", lambda: asyncio.to_thread(client.rotate, Q))
                    )

    async def _ask(self, name: str, rotate: Callable[[], Awaitable[Rotated]]) -> None:
        while not self.end.is_set():
            began_s = time.monotonic()
            outcome = await self._outcome(rotate())
            self.outcomes[f"{name} {outcome}"] += 1
            self.longest_s = max(self.longest_s, time.monotonic() - began_s)

    async def _outcome(self, rotating: Awaitable[Rotated]) -> str:
        try:
            rotated = await rotating
        except RopeClientError as failure:
            return f"failed: {failure}"[:300]
        return "right" if np.array_equal(rotated.q, self._expected) else "wrong"


class Replica:
    """A service that is restarted on one port."""

    def __init__(self) -> None:
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Start the process, and wait until it is ready."""
        self._process = subprocess.Popen(  # noqa: ASYNC220 (it returns at once)
            [sys.executable, "-m", "service"],
            cwd=ROOT,
            env={**os.environ, **SETTINGS, "ROPE_HTTP_PORT": str(self._port)},
        )
        with Client(self.url) as client:
            while not await asyncio.to_thread(client.ready):
                assert self._process.poll() is None
                await asyncio.sleep(0.1)

    async def stop(self, number: int) -> None:
        """Send the signal, and wait for the exit."""
        self._process.send_signal(number)
        await asyncio.to_thread(self._process.wait, 60)


async def main() -> int:
    """Restart the service, print the outcomes, and return the exit status."""
    replica = Replica()
    await replica.start()
    load = Load(replica.url)
    running = asyncio.create_task(load.run())
    try:
        for i in range(int(sys.argv[1])):
            await asyncio.sleep(SECONDS_BETWEEN)
            number = signal.SIGKILL if i % 2 else signal.SIGTERM
            began_s = time.monotonic()
            await replica.stop(number)
            stopped_s = time.monotonic()
            await replica.start()
            print(  # noqa: T201
                f"{number.name}: exit after {stopped_s - began_s:.1f} s, ready "
                f"{time.monotonic() - stopped_s:.1f} s later, {load.outcomes.total()} calls",
                flush=True,
            )
        await asyncio.sleep(SECONDS_BETWEEN)
        load.end.set()
        await running
    finally:
        await replica.stop(signal.SIGKILL)
    print(f"the longest call took {load.longest_s:.1f} s")  # noqa: T201
    for outcome, number in sorted(load.outcomes.items()):
        print(f"{number:8} {outcome}")  # noqa: T201
    return int(any(not outcome.endswith("right") for outcome in load.outcomes))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
