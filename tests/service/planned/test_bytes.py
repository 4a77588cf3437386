"""However the bytes of requests are cut into packets, all are answered, in order."""

import itertools
import random

import pytest

from tests.service.planned.requests import Client, any_exchange, attention, know, post, rotation
from tests.service.planned.servers import all_returned, running, settled, until

HEALTH = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"


def offsets(request: bytes) -> list[int]:
    """Return where to cut: all places of the header and of the description, and some behind."""
    start = request.index(b"\r\n\r\n") + 4
    start += 8 + int.from_bytes(request[start : start + 8], "little")
    return [*range(1, start + 9), start + 50, start + 200, start + 5000, len(request) - 1]


@pytest.mark.parametrize("is_known", [True, False], ids=["known", "unknown"])
async def test_cut_anywhere(is_known: bool):
    """In two packets; the plan of the request is known, or each request gets another one."""
    async with running() as service:
        client = await Client.connect(service.address)
        exchange = rotation(16)
        know(service, [exchange])
        num_cut_later = 0  # a header that is cut goes the ordinary way
        for at in offsets(exchange.request):
            if not is_known:
                exchange = rotation(16, x=str(at))
                know(service, [exchange])
            num_cut_later += b"\r\n\r\n" in exchange.request[:at]
            await client.send(exchange.request[:at])
            await settled(service)
            answer = await client.ask(exchange.request[at:])
            assert (answer.status, answer.body) == (200, exchange.body), at
        client.leave()
        await all_returned(service)
        assert service.statuses == [200] * num_cut_later


@pytest.mark.parametrize("size", [1, 50, 200, 5000, 100_000])
async def test_in_packets_of_one_size(size: int):
    exchanges = [rotation(3), attention(9), rotation(3), rotation(20)]
    stream = b"".join(exchange.request for exchange in exchanges)
    async with running() as service:
        know(service, exchanges)
        client = await Client.connect(service.address)
        for at in range(0, len(stream), size):
            await client.send(stream[at : at + size])
            if at < 2000 or size > 1:
                await settled(service)
        for exchange in exchanges:
            assert (await client.read()).body == exchange.body
        client.leave()


async def test_a_known_prefix_of_which_less_has_come():
    """What an earlier packet left in the buffer is no part of a later one."""
    first, other = rotation(16), rotation(17)
    async with running() as service:
        know(service, [first, other])
        client = await Client.connect(service.address)
        for at in offsets(first.request):
            assert (await client.ask(first.request)).body == first.body
            await client.send(other.request[:at])
            await settled(service)
            assert (await client.ask(other.request[at:])).body == other.body, at
        client.leave()


async def test_a_known_prefix_within_a_body():
    """A packet that looks like a known request belongs to the body before it."""
    known = rotation(16)
    inner = post("/v1/rotate", b"{}" + known.request, content_type="application/json")
    at = inner.index(b"{}") + 2
    async with running() as service:
        know(service, [known])
        client = await Client.connect(service.address)
        assert (await client.ask(known.request)).body == known.body
        await client.send(inner[:at])
        await settled(service)
        answer = await client.ask(inner[at:])
        assert answer.status == 400
        assert (await client.ask(known.request)).body == known.body
        assert service.statuses == [200, 200]
        client.leave()


@pytest.mark.parametrize("kinds", [*itertools.product("prh", repeat=3)], ids="".join)
async def test_three_requests_in_one_packet(kinds: tuple[str, str, str]):
    """Planned, refused and of health, in all orders; then one more, alone."""
    planned, refused = rotation(16), post("/v1/rotate", b"12345678")
    requests = {"p": planned.request, "r": refused, "h": HEALTH}
    statuses = {"p": 200, "r": 400, "h": 200}
    async with running() as service:
        know(service, [planned])
        client = await Client.connect(service.address)
        await client.send(b"".join(requests[kind] for kind in kinds))
        for kind in kinds:
            answer = await client.read()
            assert answer.status == statuses[kind]
            assert (answer.body == planned.body) == (kind == "p")
        assert (await client.ask(planned.request)).body == planned.body
        client.leave()
        await all_returned(service)


async def test_random_packets():
    rng = random.Random(7)
    exchanges = [any_exchange(rng) for _ in range(30)]
    async with running() as service:
        know(service, exchanges)
        client = await Client.connect(service.address)
        for _ in range(20):
            chosen = rng.choices(exchanges, k=rng.randint(1, 4))
            stream = b"".join(exchange.request for exchange in chosen)
            while stream:
                size = rng.choice((1, 50, 200, 5000, 40_000, 100_000, 2**21))
                await client.send(stream[:size])
                stream = stream[size:]
                if rng.random() < 0.3:
                    await settled(service)
            for exchange in chosen:
                answer = await client.read()
                assert (answer.status, answer.body) == (200, exchange.body)
        client.leave()
        await all_returned(service)


async def test_reading_pauses_while_much_waits_behind_a_request():
    exchange = rotation(16)
    count = 300
    async with running() as service:
        know(service, [exchange])
        client = await Client.connect(service.address)
        assert (await client.ask(exchange.request)).body == exchange.body
        (connection,) = service.connections
        service.hold()
        client.writer.write(exchange.request * count)
        await until(lambda: connection._is_reading_paused)
        assert len(connection._unread) < 2**22, "what one read brings, and no more"
        assert service.num_waiting == 1
        service.release()
        for _ in range(count):
            assert (await client.read()).body == exchange.body
        client.leave()
        await all_returned(service)
