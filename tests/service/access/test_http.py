"""API keys over HTTP: rows K01-K10, F30 and H09, scopes, and changes of the keys file.

A request with a plan never becomes ASGI, so each request is sent until it would have a plan. F20 is
in `test_connection_border`.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from service.access.tenant import ANONYMOUS, Tenant
from service.planned.planner import MAX_PLANS
from tests.service.access.keys_files import ADMIN, INFER, METRICS, OTHER, write_all
from tests.service.planned.requests import Answer, Client, post, rotation
from tests.service.planned.servers import Running, all_returned, running, settled

pytestmark = pytest.mark.asyncio(loop_scope="module")

NUM_TRIES = 3
"""The third request with the same header has a plan, if it may have one."""

GOOD = rotation(16, authorization=f"Bearer {INFER}")

JSON = b'{"q":[[[1.0,2.0]]]}'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    path = write_all(tmp_path_factory.mktemp("keys") / "keys.toml")
    async with running(keys_file=path, log_level="debug") as running_service:
        yield running_service


@asynccontextmanager
async def connected(service: Running) -> AsyncIterator[Client]:
    client = await Client.connect(service.address)
    try:
        yield client
    finally:
        client.leave()


def with_line(line: bytes, target: bytes = b"/v1/rotate") -> bytes:
    """Return the valid request with another line in place of its key."""
    request = GOOD.request.replace(f"authorization: Bearer {INFER}\r\n".encode(), line)
    return request.replace(b"/v1/rotate", target)


KEY = INFER.encode()
REFUSED = {
    "K01 no key": with_line(b""),
    "K02 wrong key": with_line(b"Authorization: Bearer wrong-key\r\n"),
    "K03 one character short": with_line(b"Authorization: Bearer %b\r\n" % KEY[:-1]),
    "K03 one character long": with_line(b"Authorization: Bearer %bx\r\n" % KEY),
    "K04 empty bearer": with_line(b"Authorization: Bearer\r\n"),
    "K04 empty bearer and a space": with_line(b"Authorization: Bearer \r\n"),
    "K04 empty field": with_line(b"Authorization:\r\n"),
    "K05 other scheme": with_line(b"Authorization: Basic %b\r\n" % KEY),
    "K05 no scheme": with_line(b"Authorization: %b\r\n" % KEY),
    "K05 a scheme that begins alike": with_line(b"Authorization: BearerX %b\r\n" % KEY),
    "K06 16 KiB": with_line(b"Authorization: Bearer %b\r\n" % (b"k" * 2**14)),
    "K07 not ASCII": with_line("Authorization: Bearer schlüssel\r\n".encode()),
    "K07 not UTF-8": with_line(b"Authorization: Bearer \xff\xfe\r\n"),
    "K08 two keys, the first right": with_line(
        b"Authorization: Bearer %b\r\nAuthorization: Bearer wrong\r\n" % KEY
    ),
    "K08 two keys, the last right": with_line(
        b"Authorization: Bearer wrong\r\nAuthorization: Bearer %b\r\n" % KEY
    ),
    "K08 the right key twice": with_line(b"Authorization: Bearer %b\r\n" % KEY * 2),
    "K08 two keys in one field": with_line(b"Authorization: Bearer %b, Bearer wrong\r\n" % KEY),
    "K09 in the query": with_line(b"", b"/v1/rotate?access_token=%b&key=%b" % (KEY, KEY)),
    "another field": with_line(b"X-API-Key: %b\r\nProxy-Authorization: Bearer %b\r\n" % (KEY, KEY)),
    "a cookie": with_line(b"Cookie: authorization=Bearer %b\r\n" % KEY),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_requests_without_a_valid_key_are_refused(service: Running, name: str):
    num_planned = len(service.statuses)
    for _ in range(NUM_TRIES):
        async with connected(service) as client:
            assert_unauthenticated(await client.ask(REFUSED[name]))
    assert len(service.statuses) == num_planned
    await assert_good(service)


def assert_unauthenticated(answer: Answer) -> None:
    assert answer.status == 401, answer
    assert answer.fields["www-authenticate"] == "Bearer"
    assert b'"code":"unauthenticated"' in answer.body
    assert KEY[:-1] not in answer.header + answer.body


async def assert_good(service: Running, exchange: Any = GOOD) -> None:
    async with connected(service) as client:
        for _ in range(NUM_TRIES):
            answer = await client.ask(exchange.request)
            assert (answer.status, answer.body) == (200, exchange.body)


async def test_a_right_key_has_plans(service: Running):
    exchange = rotation(17, authorization=f"bearer   {INFER}")  # the scheme has no case
    num_planned = len(service.statuses)
    await assert_good(service, exchange)
    assert len(service.statuses) > num_planned


@pytest.mark.parametrize(
    "target", ["/v1/rotate", "/v2/models/rope/infer", "/v2/logging", "/nowhere", "/v1/attention"]
)
async def test_k10_is_answered_before_the_body(service: Running, target: str):
    """A wrong key and a large declared body, of which no byte is sent."""
    for _ in range(NUM_TRIES):
        async with connected(service) as client:
            fields = {"host": "x", "authorization": "Bearer wrong", "content-length": str(2**24)}
            fields["content-type"] = "application/json"
            lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
            answer = await client.ask(f"POST {target} HTTP/1.1\r\n{lines}\r\n".encode())
            assert answer.status == 401
            assert await client.reader.read() == b"", "the connection is closed"
    await all_returned(service)
    await assert_good(service)


async def test_a_wrong_key_gets_no_continue(service: Running):
    async with connected(service) as client:
        header = post("/v1/rotate", b"x" * 2**20, expect="100-continue", authorization="Bearer w")
        assert (await client.ask(header[: -(2**20)])).status == 401


async def test_f30_a_key_in_a_trailer_does_not_count(service: Running):
    header = b"POST /v1/rotate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    chunks = b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n" % (len(JSON), JSON)
    for _ in range(NUM_TRIES):
        async with connected(service) as client:
            trailer = b"Authorization: Bearer %b\r\n\r\n" % KEY
            assert_unauthenticated(await client.ask(header + chunks + trailer))
    await assert_good(service)


@pytest.fixture
def tenants(service: Running, monkeypatch: pytest.MonkeyPatch) -> list[Tenant]:
    """The tenants of all calls that are put into the queue."""
    found: list[Tenant] = []
    enqueue = service.handler.batcher.enqueue

    def enqueue_and_note(entry: Any) -> None:
        found.append(entry.tenant)
        enqueue(entry)

    monkeypatch.setattr(service.handler.batcher, "enqueue", enqueue_and_note)
    return found


async def test_h09_only_the_key_names_the_tenant(service: Running, tenants: list[Tenant]):
    spoofed = {"x_forwarded_for": "10.0.0.1", "x_real_ip": "10.0.0.1", "forwarded": "for=10.0.0.1"}
    spoofed |= {"x_tenant": "two", "x_forwarded_user": "two"}
    for key, name, weight in ((INFER, "one", 1.0), (OTHER, "two", 3.0)):
        tenants.clear()
        await assert_good(service, rotation(18, authorization=f"Bearer {key}"))
        await assert_good(service, rotation(18, authorization=f"Bearer {key}", **spoofed))
        assert [(tenant.name, tenant.weight) for tenant in tenants] == [(name, weight)] * 6


@pytest.mark.parametrize(
    ("key", "opened"),
    [
        (None, set()),
        (INFER, {"/v1/presets", "/v2", "/docs", "/", "/version"}),
        (METRICS, {"/metrics", "/v2/models/stats"}),
        (
            ADMIN,
            {"/v1/presets", "/v2", "/docs", "/", "/version", "/v2/logging", "/nowhere"},
        ),
    ],
)
async def test_a_key_may_use_the_routes_of_its_scopes(
    service: Running, key: str | None, opened: set
):
    paths = {"/v1/presets", "/v2", "/docs", "/", "/version", "/metrics"}
    paths |= {"/v2/models/stats", "/v2/logging", "/nowhere", "/version?x=/healthz"}
    opened = opened | ({"/version?x=/healthz"} if "/version" in opened else set())
    line = b"" if key is None else b"authorization: Bearer %b\r\n" % key.encode()
    async with connected(service) as client:
        for path in sorted(paths):
            request = b"GET %b HTTP/1.1\r\nhost: x\r\n%b\r\n" % (path.encode(), line)
            status = (await client.ask(request)).status
            if path in opened:
                assert status == (404 if path == "/nowhere" else 200), path
            else:
                assert status == (401 if key is None else 403), path
        for path in (b"/healthz", b"/readyz", b"/v2/health/live", b"/v2/health/ready"):
            request = b"GET %b HTTP/1.1\r\nhost: x\r\n%b\r\n" % (path, line)
            assert (await client.ask(request)).status in (200, 503), path


async def test_v2_uses_its_own_error_format(service: Running):
    async with connected(service) as client:
        unknown = await client.ask(post("/v2/models/rope/infer", JSON))
        assert (unknown.status, unknown.fields["www-authenticate"]) == (401, "Bearer")
        assert unknown.body == b'{"error":"Authorization must be given once, got 0 times"}'
        forbidden = await client.ask(
            post("/v2/models/rope/infer", JSON, authorization=f"Bearer {METRICS}")
        )
        assert forbidden.status == 403
        assert b"needs the scope infer, the API key has" in forbidden.body


async def test_headers_without_a_valid_key_are_not_cached(service: Running):
    await assert_good(service)
    planner = service.planned.planner
    for number in range(3 * MAX_PLANS):
        request = with_line(b"Authorization: Bearer wrong-%d\r\n" % (number // 3))
        assert planner.match(request) is None
    assert planner.match(GOOD.request).plan is not None


async def test_no_key_in_logs(service: Running, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    await assert_good(service)
    async with connected(service) as client:
        for name in ("K02 wrong key", "K08 two keys, the last right", "K09 in the query"):
            await client.ask(REFUSED[name])
    await settled(service)
    written = "".join(capfd.readouterr()) + caplog.text
    assert '"path":"/v1/rotate"' in written, "requests are logged"
    assert INFER not in written
    assert "wrong-key" not in written


@pytest.mark.parametrize("is_planned", [False, True], ids=["ordinary", "planned"])
async def test_keys_change_without_a_restart(tmp_path, is_planned: bool):
    """The old key is refused, on a connection with a plan as well; the new key is accepted."""
    path = write_all(tmp_path / "keys.toml", "old")
    old, new = (rotation(16, authorization=f"Bearer {key}") for key in ("old", "new"))
    async with running(keys_file=path) as service, connected(service) as client:
        for _ in range(NUM_TRIES if is_planned else 1):
            assert (await client.ask(old.request)).status == 200
        assert bool(service.statuses) == is_planned
        write_all(path, "new")
        a_second_passes(service)
        assert_unauthenticated(await client.ask(old.request))
        for _ in range(NUM_TRIES):
            assert (await client.ask(new.request)).body == new.body
        assert_unauthenticated(await client.ask(old.request))
        write_all(path, "new", "old")
        a_second_passes(service)
        for _ in range(NUM_TRIES):
            assert (await client.ask(old.request)).body == old.body


@pytest.mark.parametrize("has_plan", [False, True], ids=["without a plan", "with a plan"])
async def test_keys_change_while_a_body_is_received(tmp_path, has_plan: bool):
    """With a plan the key is checked at the header; without one, when the body is complete."""
    path = write_all(tmp_path / "keys.toml", "old")
    old, new = (rotation(16, authorization=f"Bearer {key}") for key in ("old", "new"))
    async with (
        running(keys_file=path) as service,
        connected(service) as client,
        connected(service) as other,
    ):
        for _ in range(NUM_TRIES if has_plan else 1):
            assert (await client.ask(old.request)).status == 200
        await client.send(old.request[:-1])
        await settled(service)
        write_all(path, "new")
        a_second_passes(service)
        assert (await other.ask(new.request)).status == 200
        answer = await client.ask(old.request[-1:])
        assert answer.status == (200 if has_plan else 401)
        for client_of_old in (client, other) * NUM_TRIES:
            assert_unauthenticated(await client_of_old.ask(old.request))
        await all_returned(service)


async def test_a_tenant_that_changes_is_seen_by_the_next_planned_request(tmp_path):
    path = write_all(tmp_path / "keys.toml")
    async with running(keys_file=path) as service, connected(service) as client:
        for _ in range(NUM_TRIES):
            assert (await client.ask(GOOD.request)).status == 200
        path.write_text(path.read_text().replace("[one]", "[renamed]"))
        a_second_passes(service)
        names = []
        enqueue = service.handler.batcher.enqueue
        service.handler.batcher.enqueue = lambda entry: (
            names.append(entry.tenant.name),
            enqueue(entry),
        )[1]
        for _ in range(NUM_TRIES):
            assert (await client.ask(GOOD.request)).status == 200
        assert names == ["renamed"] * NUM_TRIES


@pytest.mark.parametrize("protocol", ["httptools", "h11"])
async def test_keys_are_checked_under_another_asgi_server(tmp_path, protocol: str):
    async with running(protocol, keys_file=write_all(tmp_path / "keys.toml")) as service:
        assert_unauthenticated(await ask_once(service, REFUSED["K01 no key"]))
        assert_unauthenticated(await ask_once(service, REFUSED["K08 two keys, the last right"]))
        assert (await ask_once(service, GOOD.request)).body == GOOD.body


async def test_without_a_keys_file_every_client_is_anonymous():
    async with running() as service:
        await assert_good(service)
        assert service.planned.planner.match(GOOD.request).plan.tenant is ANONYMOUS
        assert (await ask_once(service, REFUSED["K08 the right key twice"])).status == 200


async def ask_once(service: Running, request: bytes) -> Answer:
    async with connected(service) as client:
        return await client.ask(request)


def a_second_passes(service: Running) -> None:
    """Let the next request check the keys file."""
    service.handler.gate.file.next_look = 0.0
