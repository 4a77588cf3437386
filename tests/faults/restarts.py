"""Restart two replicas alternately under load: `python -m tests.faults.restarts 20 200`.

The client respects readiness, as a load balancer does: every READY_S seconds the client requests
/readyz of both replicas, and sends requests to ready replicas only. Requests go over connections
that are kept, over new connections, and over gRPC, at a rate that does not depend on the answers.
No request may fail, and none is sent twice.
"""

import asyncio
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path

import grpc
import httpx

from service.oip.grpc.messages import METHODS
from tests.conftest import Serve, Started
from tests.faults.requests import GOOD, RPCS
from tests.service.planned.requests import Client

INFER = METHODS["ModelInfer"].path
READY_S = 0.1
DRAIN = {"ROPE_DRAIN_DELAY_S": "1", "ROPE_DRAIN_S": "20", "ROPE_LOG_LEVEL": "warning"}
EXIT_S = 30
SMALL = [request for request in GOOD if len(request.data) < 2**16]
"""Requests below 64 KiB, so that the machine can handle the rate."""


class Replica:
    """A service that is restarted, and the connections of the client to the service."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.is_ready = False
        self._serve = Serve(folder, start_s=300)
        self._process: AbstractContextManager[Started] | None = None

    async def start(self) -> None:
        """Start a process on new ports, and wait until it is ready."""
        self._process = self._serve(**DRAIN)
        self.started = await asyncio.to_thread(self._process.__enter__)
        url = httpx.URL(self.started.url)
        self._address = url.host, url.port or 0
        self._idle: list[Client] = []
        self._channel = grpc.aio.insecure_channel(self.started.grpc_target)
        self.is_ready = True
        self._watch = asyncio.create_task(self._watch_readiness(self.started.url))

    async def stop(self) -> None:
        """Send SIGTERM, and wait for the exit."""
        process = self.started.process
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, EXIT_S) == 0
        assert not self.is_ready, "the client has seen that the replica is not ready"
        for client in self._idle:
            client.leave()
        await self._channel.close()
        await self.close()

    async def close(self) -> None:
        """End the process."""
        self._watch.cancel()
        if self._process is not None:
            await asyncio.to_thread(self._process.__exit__, None, None, None)
            self._process = None

    async def _watch_readiness(self, url: str) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            while self.is_ready:
                self.is_ready = (await client.get("/readyz")).status_code == 200
                await asyncio.sleep(READY_S)

    async def ask(self, rng: random.Random) -> str:
        """Send a request; return its outcome as a text."""
        kind = rng.choice(["kept", "new", "rpc"])
        if kind == "rpc":
            rpc = rng.choice(RPCS[:3])
            is_right = rpc.is_right(await self._channel.unary_unary(INFER)(rpc.data))
        else:
            request = rng.choice(SMALL)
            if kind == "kept" and self._idle:
                client = self._idle.pop()
            else:
                client = await Client.connect(self._address)
            answer = await client.ask(request.data)
            is_right = request.is_right(answer)
            if not is_right:
                return f"{kind} wrong: {answer.status} {answer.body[:100]!r}"
            if kind == "kept" and b"connection: close" not in answer.header:
                self._idle.append(client)
            else:
                client.leave()
        return f"{kind} right" if is_right else f"{kind} wrong"


async def restart_under_load(num_restarts: int, rate: float, seed: int = 0) -> Counter[str]:
    """Return the number of requests by outcome, over `num_restarts` restarts."""
    outcomes: Counter[str] = Counter()
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        replicas = [Replica(Path(folder, name)) for name in ("one", "two")]
        for replica in replicas:
            await replica.start()
        tasks: set[asyncio.Task[None]] = set()

        async def ask(replica: Replica) -> None:
            try:
                outcome = await replica.ask(rng)
            except (OSError, EOFError, grpc.aio.AioRpcError) as failure:
                outcome = " ".join(f"failed: {failure!r}".split())[:200]
            outcomes[outcome] += 1

        async def send() -> None:
            due = time.monotonic()
            while True:
                due += rng.expovariate(rate)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                ready = [replica for replica in replicas if replica.is_ready]
                if not ready:
                    outcomes["failed: no replica is ready"] += 1
                    continue
                task = asyncio.create_task(ask(rng.choice(ready)))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

        sending = asyncio.create_task(send())
        try:
            for i in range(num_restarts):
                replica = replicas[i % 2]
                await replica.stop()
                await replica.start()
                print(f"restart {i + 1}: {outcomes.total()} requests", flush=True)  # noqa: T201
        finally:
            sending.cancel()
            await asyncio.gather(*tasks)
            for replica in replicas:
                await replica.close()
    return outcomes


async def _main() -> None:
    num_restarts, rate = int(sys.argv[1]), float(sys.argv[2])
    started = time.monotonic()
    outcomes = await restart_under_load(num_restarts, rate)
    num_requests, seconds = outcomes.total(), time.monotonic() - started
    print(f"{num_restarts} restarts, {num_requests} requests in {seconds:.0f} s")  # noqa: T201
    for outcome, number in sorted(outcomes.items()):
        print(f"{number:8} {outcome}")  # noqa: T201
    if any(not outcome.endswith("right") for outcome in outcomes):
        raise SystemExit("requests failed")


if __name__ == "__main__":
    asyncio.run(_main())
