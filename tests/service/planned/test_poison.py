"""A request with bad numbers fails alone; the others of its batch are as they are without it."""

import math

import pytest
import torch

from tests.service.planned.requests import (
    Client,
    Exchange,
    attention,
    encode,
    know,
    post,
    rotation,
)
from tests.service.planned.servers import running, settled, until

NUM_CALLS = 16


def poisoned_rotation(q: float = 1.0, position: int = 0) -> bytes:
    tensor, positions = torch.ones(1, 16, 8, 64), torch.zeros(1, 16, dtype=torch.int64)
    tensor[0, 3, 2, 1], positions[0, 5] = q, position
    return post("/v1/rotate", encode({"q": tensor, "positions": positions}))


def poisoned_attention(name: str, number: float) -> bytes:
    tensors = {n: torch.ones(1, 16, h, 64) for n, h in (("q", 8), ("k", 2), ("v", 2))}
    tensors[name][0, 3, 1, 1] = number
    body = encode({**tensors, "positions": torch.arange(16)[None]})
    return post("/v1/attention", body)


NUMBERS = (math.nan, math.inf, -math.inf, 3e38)
POISONED = {
    **{f"position {n}": poisoned_rotation(position=n) for n in (-1, 2**31, 2**62, -(2**63))},
    **{f"rotation of {n}": poisoned_rotation(n) for n in NUMBERS},
    **{f"{name} has {n}": poisoned_attention(name, n) for name in "qkv" for n in NUMBERS},
}


@pytest.mark.parametrize("name", POISONED)
async def test_one_in_a_full_batch(name: str):
    request = POISONED[name]
    make = attention if b"/v1/attention" in request else rotation
    others = [make(16, seed) for seed in range(NUM_CALLS - 1)]
    async with running("ordinary") as ordinary, running() as service:
        client = await Client.connect(ordinary.address)
        expected = await client.ask(request)
        client.leave()
        know(service, others[:1])
        clients = [await Client.connect(service.address) for _ in range(NUM_CALLS)]
        service.hold()
        for client, sent in zip(clients, _insert(others, request), strict=True):
            await client.send(sent)
        await until(lambda: service.num_waiting == NUM_CALLS)
        service.release()
        answers = [await client.read() for client in clients]
        poisoned = answers.pop(7)
        assert poisoned.lasting[0] == expected.status
        assert poisoned.lasting[1:] == expected.lasting[1:]
        for answer, other in zip(answers, others, strict=True):
            assert (answer.status, answer.body) == (200, other.body)
        await settled(service)
        assert sorted(service.statuses) == sorted([200] * (NUM_CALLS - 1) + [expected.status])
        for client in clients:
            client.leave()


def _insert(others: list[Exchange], request: bytes) -> list[bytes]:
    requests = [other.request for other in others]
    return [*requests[:7], request, *requests[7:]]
