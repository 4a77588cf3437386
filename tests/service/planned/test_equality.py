"""Answers to planned requests are those of the library alone, byte for byte."""

import asyncio
import random

import pytest

from tests.service.planned.requests import Client, any_exchange, attention, know, rotation
from tests.service.planned.servers import all_returned, running, settled


async def test_all_lengths():
    async with running() as service:
        client = await Client.connect(service.address)
        for length in range(1, 301):
            exchange = rotation(length, seed=length)
            await client.ask(exchange.request)  # a header has a plan when it is seen again
            answer = await client.ask(exchange.request)
            assert (answer.status, answer.body) == (200, exchange.body), length
        for length in (1, 2, 3, 15, 16, 17, 63, 64, 65, 128, 300):
            exchange = attention(length, seed=length)
            await client.ask(exchange.request)
            answer = await client.ask(exchange.request)
            assert (answer.status, answer.body) == (200, exchange.body), length
        assert service.statuses == [200] * 311
        await all_returned(service)
        client.leave()


@pytest.mark.parametrize("num_connections", [1, 2, 64])
async def test_mixed_calls_on_connections_beside_each_other(num_connections: int):
    rng = random.Random(num_connections)
    exchanges = [any_exchange(rng) for _ in range(40)]

    async def ask(address: tuple[str, int], seed: int) -> None:
        rng = random.Random(seed)
        client = await Client.connect(address)
        for exchange in rng.choices(exchanges, k=8):
            answer = await client.ask(exchange.request)
            assert (answer.status, answer.body) == (200, exchange.body)
        client.leave()

    async with running() as service:
        know(service, exchanges)
        await asyncio.gather(*(ask(service.address, seed) for seed in range(num_connections)))
        assert service.statuses == [200] * (8 * num_connections)
        await all_returned(service)


async def test_calls_that_wait_share_batches():
    exchanges = [rotation(16, seed) for seed in range(15)] + [attention(16, seed=1)]
    async with running() as service:
        know(service, exchanges)
        clients = [await Client.connect(service.address) for _ in exchanges]
        service.hold()
        for client, exchange in zip(clients, exchanges, strict=True):
            await client.send(exchange.request)
        await settled(service)
        service.release()
        for client, exchange in zip(clients, exchanges, strict=True):
            assert (await client.read()).body == exchange.body
            client.leave()
        assert service.metric("rope_batch_requests_count") == 2


async def test_a_request_whose_identifiers_are_its_own():
    async with running() as service:
        client = await Client.connect(service.address)
        know(service, [rotation(16)])
        for number in range(5):
            trace = f"00-{number:032x}-00f067aa0ba902b7-01"
            exchange = rotation(16, number, x_request_id=f"mine-{number}", traceparent=trace)
            answer = await client.ask(exchange.request)
            assert (answer.status, answer.body) == (200, exchange.body)
            assert answer.fields["x-request-id"] == f"mine-{number}"
            assert service.log.records[-1].headers[b"traceparent"] == trace.encode()
        client.leave()
        assert service.statuses == [200] * 5
