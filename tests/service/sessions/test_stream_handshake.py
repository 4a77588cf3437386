"""Who may open a stream, and what the others are answered: HTTP problems."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import websockets
from websockets.typing import Subprotocol

from tests.service.access.keys_files import table
from tests.service.planned.requests import rotation
from tests.service.planned.servers import Running, running, until
from tests.service.sessions.fake_sessions import FakeSessions
from tests.service.sessions.stream_client import (
    RawClient,
    frame,
    handshake,
    message,
    read,
    step,
    stream,
)

ORIGIN = "https://pages.example"


async def refused(service: Running, request: bytes) -> tuple[int, dict[str, Any], bytes]:
    """Return status, problem and header of the answer to a handshake."""
    client = RawClient(*await asyncio.open_connection(*service.address))
    await client.send(request)
    header = await client.read_header()
    length = int(header.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    body = await client.reader.readexactly(length)
    client.writer.close()
    return int(header.split()[1]), json.loads(body), header


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (handshake("/v1/sessions/nobody/stream"), 404, "no_session"),
        (handshake("/v1/sessions/gone/stream"), 410, "session_gone"),
        (handshake("/v1/sessions/a/stream", "Origin: https://evil.example"), 403, "forbidden"),
        (handshake("/v1/sessions/a/stream", "Origin: null"), 403, "forbidden"),
        (handshake("/v1/sessions/a/stream", "X-Session-Id: b"), 400, "bad_header"),
        (handshake("/v1/sessions/nobody/stream", "X-Session-Id: b"), 400, "bad_header"),
        (handshake("/v1/sessions/a/stream", "Sec-WebSocket-Protocol: x"), 400, "bad_header"),
        (handshake("/v1/sessions/a/stream", "Content-Length: 3") + b"abc", 400, "bad_request"),
        (handshake("/v1/sessions/a/stream?end_on_close=maybe"), 400, "bad_query"),
        (handshake("/v1/sessions/a/stream?x=1"), 400, "bad_query"),
        (handshake("/v1/stream?end_on_close=1"), 400, "bad_query"),
        (handshake().replace(b"13", b"12"), 400, "bad_header"),
        (handshake().replace(b"dGhl", b"!!!!"), 400, "bad_header"),
        (handshake().replace(b"Host: localhost", b"Host: evil.example"), 400, "bad_header"),
        (handshake().replace(b"Upgrade: websocket\r\n", b""), 426, "upgrade_required"),
        (handshake().replace(b"websocket", b"h2c"), 426, "upgrade_required"),
    ],
)
async def test_refusals(request_bytes: bytes, status: int, code: str):
    async with running(sessions=FakeSessions(), session_origins=ORIGIN) as service:
        got, problem, header = await refused(service, request_bytes)
        assert (got, problem["code"]) == (status, code)
        assert b"application/problem+json" in header
        assert (b"upgrade: websocket" in header.lower()) == (status == 426)
        assert service.charged_bytes == 0


async def test_sessions_may_be_off():
    async with running() as service:
        status, problem, _ = await refused(service, handshake())
        assert (status, problem["code"]) == (404, "sessions_off")


async def test_listed_origins_and_our_subprotocol_are_accepted():
    protocol = Subprotocol("rope.session.v1")
    async with (
        running(sessions=FakeSessions(), session_origins=f"https://x.example,{ORIGIN}") as service,
        stream(
            service, origin=ORIGIN, subprotocols=["other", protocol], compression="deflate"
        ) as connection,
    ):
        assert connection.subprotocol == protocol
        assert connection.response is not None
        assert "Sec-WebSocket-Extensions" not in connection.response.headers
        await connection.send(step(0))
        assert read(await connection.recv())["length"] == [1]


async def test_no_session_id_is_logged():
    async with running(sessions=FakeSessions()) as service:
        await refused(service, handshake("/v1/sessions/nobody/stream"))
        async with stream(service) as connection:
            for data in (step(0), b"?", step(1)):
                await connection.send(data)
                await connection.recv()
        await until(lambda: not service.connections)
        (record,) = service.log.records
        assert (record.route, record.path) == ("/v1/sessions/{id}/stream",) * 2
        assert record.status == 101
        assert record.failure == {"close_code": 1000, "messages": 3, "failures": 1}
    labels = {"route": "/v1/sessions/{id}/stream"}
    assert service.metric("rope_requests_total", status="101", **labels) == 1
    assert service.metric("rope_requests_total", status="404", **labels) == 1


async def test_a_handshake_behind_other_requests():
    """A handshake waits for its turn on a connection; what follows it are frames."""
    exchange = rotation(1)
    async with running(sessions=FakeSessions()) as service:
        client = RawClient(*await asyncio.open_connection(*service.address))
        await client.send(exchange.request)
        await client.read_header()
        await client.reader.readexactly(len(exchange.body))
        await client.send(handshake() + frame(2, step(0)) + frame(2, step(1))[:9])
        assert b" 101 " in await client.read_header()
        assert read((await client.read_frame())[1])["length"] == [1]
        await client.send(frame(2, step(1))[9:])
        assert read((await client.read_frame())[1])["length"] == [2]
        client.writer.close()
        await until(lambda: not service.connections)


async def test_a_handshake_must_not_be_pipelined():
    ask = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    async with running("ordinary", sessions=FakeSessions()) as service:
        client = RawClient(*await asyncio.open_connection(*service.address))
        await client.send(ask + handshake())
        assert b" 200 " in await client.read_header()
        answers = await client.reader.read()
        assert b"HTTP/1.1 400 " in answers
        assert b"must wait" in answers
        client.writer.close()


async def test_the_key_and_its_scope(tmp_path: Path):
    file = tmp_path / "keys.toml"
    write = 'scopes = ["sessions"]'
    file.write_text(table("one", ["key"], write) + table("two", ["other"]))

    def bearer(key: str) -> dict[str, Any]:
        return {"additional_headers": {"Authorization": f"Bearer {key}"}}

    sessions = FakeSessions()
    async with running(sessions=sessions, keys_file=file) as service:
        assert (await refused(service, handshake()))[0] == 401
        for path in ("/v1/sessions/a/stream", "/v1/stream"):
            for key, status in (("unknown", 401), ("other", 403)):
                request = handshake(path, f"Authorization: Bearer {key}")
                assert (await refused(service, request))[0] == status
        async with stream(service, **bearer("key")) as connection:
            await connection.send(step(0))
            assert read(await connection.recv())["length"] == [1]
            assert sessions.calls[0][3].tenant.name == "one"
            file.write_text(table("one", ["new key"], write))
            service.handler.gate.reload()
            await connection.send(step(1))
            answer = read(await connection.recv())
            assert (answer["status"], answer["seq"]) == (401, 1)
            file.write_text(table("three", ["key"], write))
            service.handler.gate.reload()
            await connection.send(step(2))
            assert read(await connection.recv())["length"] == [2]
            assert sessions.calls[1][3].tenant.name == "three"


async def test_quotas_count_messages(tmp_path: Path):
    file = tmp_path / "keys.toml"
    limits = 'scopes = ["sessions"]', "max_concurrent = 2"
    file.write_text(table("one", ["key"], *limits))
    sessions = FakeSessions()
    sessions.hold("a")
    headers = {"Authorization": "Bearer key"}
    async with running(sessions=sessions, keys_file=file) as service:
        async with stream(service, additional_headers=headers) as connection:
            for seq in range(3):
                await connection.send(step(seq))
            await until(lambda: len(sessions.calls) == 2)
            sessions.release("a")
            first, second, third = [read(await connection.recv()) for _ in range(3)]
            assert [first["seq"], second["seq"]] == [0, 1]
            assert (third["status"], third["seq"], third["retry_after_s"]) == (429, 2, 1)
            await connection.send(message(op="inspect", seq=3))
            assert read(await connection.recv())["seq"] == 3
        await until(lambda: not service.connections)
        counted = "rope_tenant_requests_total"
        assert service.metric(counted, tenant="one", outcome="max_concurrent") == 1
        assert service.metric(counted, tenant="one", outcome="admitted") == 4


async def test_a_service_that_ends_opens_no_stream():
    async with running(sessions=FakeSessions()) as service, stream(service) as connection:
        service.lifecycle.drain()
        status, problem, _ = await refused(service, handshake())
        assert (status, problem["code"]) == (503, "shutting_down")
        await connection.send(step(0))
        assert read(await connection.recv())["length"] == [1]


@pytest.mark.parametrize("path", ["/v1/sessions//stream", "/v1/sessions/a/b/stream"])
async def test_other_paths_are_no_streams(path: str):
    async with running(sessions=FakeSessions()) as service:
        with pytest.raises(websockets.InvalidStatus) as failure:
            async with stream(service, path):
                pass
        assert failure.value.response.status_code == 404
