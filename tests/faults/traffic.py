"""Clients of all kinds, and the invariants that hold under every fault.

Each request is answered exactly once: an answer repeats the identifier of its request, and no bytes
are left when a client leaves. An answer with 200 is correct to the last bit. A valid request may
only be refused with 503 and Retry-After. No answer has the status 500.
"""

import asyncio
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count

import grpc
import httpx

from service.oip.grpc.messages import METHODS
from tests.faults.requests import BAD, GOOD, RPCS, Request
from tests.service.planned.requests import Answer, Client

INFER = METHODS["ModelInfer"].path
GAUGES = ("rope_admitted_bytes", "rope_queue_depth", "rope_queued_bytes")
MANNERS = {"ask": 12, "pipeline": 3, "drip": 1, "abandon": 2, "bad": 3, "rpc": 4, "cancel": 1}
"""Actions of a client, with their relative frequencies."""


@dataclass
class Traffic:
    """Clients of a running service."""

    url: str
    grpc_target: str
    seed: int
    outcomes: Counter[str] = field(default_factory=Counter)
    """Number of answers, by request and status."""
    num_sent: int = 0
    """Complete requests sent over HTTP."""
    num_abandoned: int = 0
    """Requests whose client left before the answer; the service may have seen them or not."""
    num_healthy: int = 0
    """Successful health checks."""

    def __post_init__(self) -> None:
        self._ids = count()
        url = httpx.URL(self.url)
        self._address = url.host, url.port or 0

    async def run(self, num_clients: int, num_requests: int) -> None:
        """Send `num_requests` requests from each client, with health checks beside them."""
        async with grpc.aio.insecure_channel(self.grpc_target) as channel:
            clients = [
                asyncio.create_task(
                    self._client(channel, random.Random(f"{self.seed} {i}"), num_requests)
                )
                for i in range(num_clients)
            ]
            health = asyncio.create_task(self._check_health())
            try:
                await asyncio.gather(*clients)
            finally:
                health.cancel()
                for client in clients:
                    client.cancel()
        if health.done() and not health.cancelled():
            health.result()

    async def _client(
        self, channel: grpc.aio.Channel, rng: random.Random, num_requests: int
    ) -> None:
        client = await Client.connect(self._address)
        for _ in range(num_requests):
            (manner,) = rng.choices([*MANNERS], [*MANNERS.values()])
            match manner:
                case "ask":
                    client = await self._ask(client, [rng.choice(GOOD)])
                case "pipeline":
                    client = await self._ask(client, rng.choices(GOOD, k=3))
                case "drip":
                    client = await self._ask(client, [rng.choice(GOOD)], drip=rng)
                case "bad":
                    client = await self._ask(client, [rng.choice(BAD)])
                case "abandon":
                    await self._abandon(client, rng)
                    client = await Client.connect(self._address)
                case "rpc":
                    await self._rpc(channel, rng)
                case "cancel":
                    await self._cancel(channel, rng)
        await self._end(client)

    async def _ask(
        self, client: Client, requests: list[Request], drip: random.Random | None = None
    ) -> Client:
        """Send requests, check each answer, and return the client for the next ones."""
        ids = [f"fault-{next(self._ids)}" for _ in requests]
        data = b"".join(r.with_id(i) for r, i in zip(requests, ids, strict=True))
        if drip is not None:
            for _ in range(3):
                cut = drip.randrange(len(data))
                await client.send(data[:cut])
                data = data[cut:]
                await asyncio.sleep(0.002)
        await client.send(data)
        self.num_sent += len(requests)
        for request, request_id in zip(requests, ids, strict=True):
            answer = await client.read()
            fields = {name.lower(): value for name, value in answer.fields.items()}
            assert fields["x-request-id"] == request_id, "the answer to another request"
            self._check(request, answer, "retry-after" in fields)
            if "connection" in fields:  # refused before the body was read
                assert answer.status == 503
                await self._end(client)
                return await Client.connect(self._address)
        return client

    async def _end(self, client: Client) -> None:
        """Half-close a connection, and check that no further answer arrives."""
        with suppress(OSError):  # a reset: the rest of a request was not read
            client.writer.write_eof()
            assert await client.reader.read() == b"", "an answer without a request"
        client.leave()

    def _check(self, request: Request, answer: Answer, says_when_to_retry: bool) -> None:
        self.outcomes[f"{request.name}: {answer.status}"] += 1
        refused = answer.status == 503 and says_when_to_retry
        assert request.is_right(answer) or refused, (request.name, answer.header, answer.body[:500])

    async def _abandon(self, client: Client, rng: random.Random) -> None:
        """Send a part of a request or all of it, and leave or reset the connection."""
        data = rng.choice(GOOD).data
        cut = rng.choice([len(data), rng.randrange(len(data))])
        await client.send(data[:cut])
        await asyncio.sleep(rng.choice([0, 0, 0.001, 0.01]))
        self.num_abandoned += 1
        client.reset() if rng.random() < 0.5 else client.leave()

    async def _rpc(self, channel: grpc.aio.Channel, rng: random.Random) -> None:
        rpc = rng.choice(RPCS)
        call = channel.unary_unary(INFER)(rpc.data, timeout=60)
        code = await call.code()
        self.outcomes[f"rpc: {code.name}"] += 1
        if code is grpc.StatusCode.OK:
            assert rpc.is_right(await call)
        else:
            assert code is grpc.StatusCode.UNAVAILABLE, await call.details()

    async def _cancel(self, channel: grpc.aio.Channel, rng: random.Random) -> None:
        call = channel.unary_unary(INFER)(rng.choice(RPCS).data)
        await asyncio.sleep(rng.choice([0, 0.001, 0.01]))
        call.cancel()

    async def _check_health(self) -> None:
        async with httpx.AsyncClient(base_url=self.url, timeout=60) as client:
            while True:
                assert (await client.get("/healthz")).status_code == 200
                self.num_healthy += 1
                await asyncio.sleep(0.02)


async def read_metrics(url: str) -> dict[str, float]:
    """Return all samples by name and labels."""
    async with httpx.AsyncClient(timeout=60) as client:
        lines = (await client.get(f"{url}/metrics")).text.splitlines()
    samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}
