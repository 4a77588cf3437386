"""A thousand abandoned calls are not run, and leave no charge and no descriptor."""

import resource
from collections.abc import Iterator

import pytest

from tests.service.planned.requests import Client, know, post, rotation
from tests.service.planned.servers import running, until

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
        await until(lambda: (service.charged_bytes, service.num_slabs) == (0, 0))
        service.release()
        client = await Client.connect(service.address)
        assert (await client.ask(PLANNED.request)).body == PLANNED.body
        client.leave()
        await until(lambda: not service.connections)
        assert service.metric("rope_batch_requests_count") == 1, "the last one alone was run"
        left = {"route": "/v1/rotate", "status": "499"}
        assert service.metric("rope_requests_total", **left) == 2 * NUM_CLIENTS
