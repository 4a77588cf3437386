"""A call that raises fails alone: the other answers of its batch are unchanged."""

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import pytest
import torch

from service.asgi import problems
from service.batching.run import Run
from service.lifecycle import Phase
from service.oip.grpc import planned as grpc_planned
from tests.faults.requests import Rpc, rpc
from tests.service.oip.test_grpc_planned import Planned, planned_service
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
from tests.waiting import wait_until_async

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
    **{f"position {n}": poisoned_rotation(position=n) for n in (-1, 2**31, 2**53 + 1, -(2**63))},
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
        if name in (f"position {2**53 + 1}", f"position {-(2**63)}"):
            assert poisoned.status == 422, "no position beyond 2**53 is legal"
        for answer, other in zip(answers, others, strict=True):
            assert (answer.status, answer.body) == (200, other.body)
        await settled(service)
        assert sorted(service.statuses) == sorted([200] * (NUM_CALLS - 1) + [expected.status])
        for client in clients:
            client.leave()


def _insert(others: list[Exchange], request: bytes) -> list[bytes]:
    requests = [other.request for other in others]
    return [*requests[:7], request, *requests[7:]]


class PoisonedRun:
    """Runs calls, but raises an unexpected exception if one of them has POISON tokens."""

    POISON = 7

    def __init__(self, run: Callable[[Sequence[Any]], Run[Any]]) -> None:
        self._run = run
        self.sizes: list[int] = []

    def __call__(self, calls: Sequence[Any]) -> Run[Any]:
        self.sizes.append(len(calls))
        if any(call.num_tokens == self.POISON for call in calls):
            raise RuntimeError("poison")
        return self._run(calls)


@pytest.mark.parametrize("way", ["planned", "ordinary"])
async def test_a_call_that_raises_fails_alone_among_64(way: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(problems.log, "error", lambda *_, **__: None)  # pytest keeps what is logged
    exchanges = [rotation(4, seed) for seed in range(63)]
    exchanges.insert(41, rotation(PoisonedRun.POISON))
    async with running(way) as service:
        know(service, [exchanges[0], exchanges[41]])
        batcher = service.handler.batcher
        run = batcher.run = PoisonedRun(batcher.run)
        clients = [await Client.connect(service.address) for _ in exchanges]
        service.hold()
        for client, exchange in zip(clients, exchanges, strict=True):
            await client.send(exchange.request)
        await until(lambda: service.num_waiting == 64)
        service.release()
        answers = [await client.read() for client in clients]
        poisoned = answers.pop(41)
        assert poisoned.status == 500
        assert "poison" not in poisoned.body.decode()
        for answer, exchange in zip(answers, exchanges[:41] + exchanges[42:], strict=True):
            assert (answer.status, answer.body) == (200, exchange.body)
        assert run.sizes[0] == 64
        assert run.sizes.count(1) <= 2, "the other halves are run as they are"
        assert len(run.sizes) == 1 + 2 * 6
        for client in clients:
            client.leave()


@pytest.mark.parametrize("is_planned", [True, False], ids=["planned", "ordinary"])
async def test_a_call_that_raises_fails_alone_over_grpc(
    is_planned: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(problems.log, "error", lambda *_, **__: None)
    lengths = [4] * 63
    lengths.insert(41, PoisonedRun.POISON)
    rpcs = [rpc(length, seed) for seed, length in enumerate(lengths)]
    async with planned_service() as service:
        batcher = service.state.handler.batcher
        if is_planned:
            await asyncio.gather(*(_answer(service, each) for each in 2 * [rpcs[0], rpcs[41]]))
        else:
            monkeypatch.setattr(grpc_planned, "MAX_PLANNED_BYTES", 0)
        async for phase in service.state.lifecycle.changes():
            if phase is Phase.READY:  # the end of the warm-up releases calls
                break
        run = batcher.run = PoisonedRun(batcher.run)
        batcher.pause()
        asked = [asyncio.create_task(_answer(service, each)) for each in rpcs]

        async def all_wait() -> bool:
            return len(batcher.waiting) == 64

        await wait_until_async(all_wait)
        batcher.resume()
        answers = await asyncio.gather(*asked)
        assert answers.pop(41) == grpc.StatusCode.INTERNAL
        del rpcs[41]
        assert all(each.is_right(answer) for each, answer in zip(rpcs, answers, strict=True))
        assert run.sizes[0] == 64
        assert set(service.ways[-64:]) == {"planned" if is_planned else "ordinary"}


async def _answer(service: Planned, request: Rpc) -> bytes | grpc.StatusCode:
    """Return a response, or the status of a failure."""
    try:
        return await service.running.ask("ModelInfer", request.data)
    except grpc.aio.AioRpcError as failure:
        return failure.code()
