"""A thousand abandoned calls are not run, and leave no charge and no descriptor."""

import resource
from collections.abc import Iterator

import pytest

from service.lifecycle import Phase
from service.oip.grpc import planned as grpc_planned
from service.oip.grpc.messages import METHODS
from tests.faults.requests import rpc
from tests.service.oip.test_grpc_planned import planned_service
from tests.service.planned.requests import Client, know, post, rotation
from tests.service.planned.servers import all_returned, running, until

NUM_CLIENTS = 500
PLANNED = rotation(16)
JSON = post("/v1/rotate", b'{"q": [[[1, 2]]]}', content_type="application/json")


@pytest.fixture
def many_files() -> Iterator[None]:
    """Each connection has two descriptors in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 4 * NUM_CLIENTS + 100
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, needed), hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
async def test_abandoned_calls_are_not_run():
    async with running(max_connections=4 * NUM_CLIENTS) as service:
        know(service, [PLANNED])
        service.hold()
        clients = []
        for i in range(2 * NUM_CLIENTS):
            client = await Client.connect(service.address)
            await client.send(PLANNED.request if i % 2 else JSON)
            clients.append(client)
        await until(lambda: service.num_waiting == 2 * NUM_CLIENTS)
        assert service.num_slabs == NUM_CLIENTS
        assert service.charged_bytes > 0
        for i, client in enumerate(clients):
            client.reset() if i % 3 else client.leave()
        await until(lambda: service.num_waiting == 0)
        await all_returned(service)
        service.release()
        client = await Client.connect(service.address)
        assert (await client.ask(PLANNED.request)).body == PLANNED.body
        client.leave()
        await until(lambda: not service.connections)
        assert service.metric("rope_batch_requests_count") == 1, "the last one alone was run"
        left = {"route": "/v1/rotate", "status": "499"}
        assert service.metric("rope_requests_total", **left) == 2 * NUM_CLIENTS


@pytest.mark.parametrize("is_planned", [True, False], ids=["planned", "ordinary"])
async def test_abandoned_rpcs_are_not_run(is_planned: bool, monkeypatch: pytest.MonkeyPatch):
    request = rpc(4, 0)
    async with planned_service() as service:
        handler = service.state.handler
        batcher, run = handler.batcher, handler.batcher.run
        if not is_planned:
            monkeypatch.setattr(grpc_planned, "MAX_PLANNED_BYTES", 0)
        async for phase in service.state.lifecycle.changes():
            if phase is Phase.READY:  # the end of the warm-up releases calls
                break
        for _ in range(2):
            await service.running.ask("ModelInfer", request.data)
        sizes: list[int] = []
        batcher.run = lambda calls: sizes.append(len(calls)) or run(calls)
        batcher.pause()
        ask = service.running.channel.unary_unary(METHODS["ModelInfer"].path)
        calls = [ask(request.data) for _ in range(2 * NUM_CLIENTS)]
        await until(lambda: len(batcher.waiting) == 2 * NUM_CLIENTS)
        assert handler.admission.charged_bytes > 0
        for call in calls:
            call.cancel()
        await until(lambda: not batcher.waiting and not handler.admission.charged_bytes)
        batcher.resume()
        assert request.is_right(await service.running.ask("ModelInfer", request.data))
        assert sizes == [1], "the last one alone was run"
        assert set(service.ways[3:]) == {"planned" if is_planned else "ordinary"}
        assert service.state.statistics["rope"].num_failed["CANCELED"] == 2 * NUM_CLIENTS
