"""Quotas over HTTP, with and without a plan: refused before the body, and always released."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from service.access.tenant import Tenant
from tests.service.access.keys_files import table
from tests.service.planned.requests import Client, post, rotation
from tests.service.planned.servers import Running, all_returned, running, settled, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

TENANTS = {
    "computing": "compute_s_per_s = 1",
    "narrow": "bytes_per_s = 1000",
    "single": "max_concurrent = 1",
}
"""A tenant for each limit; its name is its key."""

JSON = b'{"q":[[[1.0,2.0]]]}'


def write(folder: Path) -> Path:
    path = folder / "keys.toml"
    path.write_text("".join(table(name, [name], limit) for name, limit in TENANTS.items()))
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with running(keys_file=write(tmp_path_factory.mktemp("keys"))) as running_service:
        yield running_service


@pytest_asyncio.fixture(loop_scope="module")
async def client(service: Running) -> AsyncIterator[Client]:
    connected = await Client.connect(service.address)
    yield connected
    connected.leave()


def counted(service: Running, tenant: str, outcome: str) -> float:
    return service.metric("rope_tenant_requests_total", tenant=tenant, outcome=outcome)


async def test_a_debt_refuses_requests_with_and_without_a_plan(service: Running, client: Client):
    quotas = service.handler.gate.quotas
    exchange = rotation(16, authorization="Bearer computing")
    for _ in range(4):
        assert (await client.ask(exchange.request)).body == exchange.body
    num_planned = len(service.statuses)
    assert num_planned >= 2
    quotas.add_compute(Tenant("computing"), 1000.0)
    ordinary = post("/v1/rotate", JSON, authorization="Bearer computing", accept="*/*")
    for request in (exchange.request, ordinary, exchange.request):
        answer = await client.ask(request)
        assert answer.status == 429
        assert 900 < int(answer.fields["retry-after"]) <= 1000
        assert json.loads(answer.body)["code"] == "quota_exceeded"
    oip = post("/v2/models/rope/infer", b"{}", authorization="Bearer computing")
    answer = await client.ask(oip)
    assert answer.status == 429
    assert "computing per second" in json.loads(answer.body)["error"]
    assert service.statuses[num_planned:] == [429, 429], "those with a plan, at their head"
    assert counted(service, "computing", "admitted") == 4
    assert counted(service, "computing", "compute_s_per_s") == 4
    quotas.add_compute(Tenant("computing"), -1001.0)
    assert (await client.ask(exchange.request)).body == exchange.body
    await all_returned(service)


async def test_a_run_is_charged_to_its_tenant(service: Running, client: Client):
    quotas, charged = service.handler.gate.quotas, []
    add_compute = service.handler.batcher.add_compute
    service.handler.batcher.add_compute = lambda tenant, s: charged.append((tenant.name, s))
    try:
        exchange = rotation(18, authorization="Bearer computing")
        for _ in range(3):
            assert (await client.ask(exchange.request)).body == exchange.body
    finally:
        service.handler.batcher.add_compute = add_compute
    assert [name for name, _ in charged] == ["computing"] * 3
    assert all(seconds > 0 for _, seconds in charged)
    assert add_compute == quotas.add_compute


async def test_bytes_are_refused_before_the_body(service: Running):
    """The first body is larger than the bucket and leaves a debt: later requests are refused."""
    for body, fields in ((b"x" * 10**6, {}), (JSON, {"expect": "100-continue"})):
        client = await Client.connect(service.address)
        request = post("/v1/rotate", body, authorization="Bearer narrow", **fields)
        header = request[: -len(body)]
        if not fields:
            assert (await client.ask(request)).status == 400
        answer = await client.ask(header)
        assert (answer.status, answer.fields["retry-after"] > "1") == (429, True)
        client.leave()
    assert counted(service, "narrow", "bytes_per_s") == 2


async def test_bytes_of_a_chunked_body_are_counted(service: Running, client: Client):
    quotas = service.handler.gate.quotas
    quotas.add_bytes(Tenant("narrow"), -(10**9))
    header = b"POST /v1/rotate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    header += b"authorization: Bearer narrow\r\ntransfer-encoding: chunked\r\n\r\n"
    body = JSON + b" " * 50_000
    answer = await client.ask(header + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
    assert answer.status == 200
    answer = await client.ask(post("/v1/rotate", JSON, authorization="Bearer narrow"))
    assert answer.status == 429
    assert 40 < int(answer.fields["retry-after"]) <= 50


async def test_max_concurrent(service: Running, client: Client):
    """A request of either kind is in progress until its client leaves."""
    exchange = rotation(20, authorization="Bearer single")
    for _ in range(3):
        assert (await client.ask(exchange.request)).body == exchange.body
    for _ in range(2):
        service.hold()
        holder = await Client.connect(service.address)
        await holder.send(exchange.request)
        await until(lambda: service.num_waiting == 1)
        answer = await client.ask(exchange.request)
        assert (answer.status, answer.fields["retry-after"]) == (429, "1")
        holder.reset()
        await until(lambda: service.num_waiting == 0)
        await settled(service)
        service.release()
        assert (await client.ask(exchange.request)).body == exchange.body
    half = await Client.connect(service.address)
    await half.send(exchange.request[:-10])
    await until(lambda: service.charged_bytes)
    assert (await client.ask(exchange.request)).status == 429
    half.reset()
    await until(lambda: not service.charged_bytes)
    await settled(service)
    assert (await client.ask(exchange.request)).body == exchange.body


async def test_a_request_whose_plan_cannot_be_made_is_counted_once(
    service: Running, client: Client
):
    """The request is received as a planned one, and starts again on the ordinary path."""
    before = counted(service, "single", "admitted")
    bad = rotation(24, authorization="Bearer single").request
    bad = bad.replace(b"10000", b"-1000")
    for _ in range(4):
        assert (await client.ask(bad)).status == 422
    assert counted(service, "single", "admitted") == before + 4
    await all_returned(service)


async def test_many_clients_of_one_tenant_leave_no_charge(service: Running):
    exchange = rotation(26, authorization="Bearer computing")
    clients = [await Client.connect(service.address) for _ in range(20)]
    answers = await asyncio.gather(*(client.ask(exchange.request) for client in clients))
    assert {answer.status for answer in answers} == {200}
    for client in clients:
        client.leave()
    await all_returned(service)
    assert service.handler.admission._bytes_of_tenants == {}
