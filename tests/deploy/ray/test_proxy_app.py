"""Requests that Ray's proxy brings."""

import asyncio
import pickle
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import pytest
import safetensors.numpy
from rope_ray.proxy_app import ProxyApp

from tests.service.outside import whole_service

KEY = {"session_key": "a secret of this test", "sessions": "open"}
SESSION = {"layers": 1, "heads": 2, "kv_heads": 2, "head_dim": 4}


@asynccontextmanager
async def nothing():
    yield


def proxy_app(app: Any, *, alive: tuple[str, ...] = (), endpoint: str | None = None) -> ProxyApp:
    async def is_alive(owner: str) -> bool:
        return owner in alive

    return ProxyApp(app, nothing(), is_alive=is_alive, endpoint=lambda: endpoint)


def client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://ray")


async def test_a_session_of_an_owner_that_has_ended_is_lost():
    async with whole_service(session_owner="old", **KEY) as old, client(old.app) as first:
        id_ = (await first.post("/v1/sessions", json=SESSION)).json()["id"]
    async with whole_service(session_owner="new", **KEY) as new:
        async with client(proxy_app(new.app)) as routed:
            answer = await routed.get(f"/v1/sessions/{id_}")
            forged = await routed.get(f"/v1/sessions/{id_[:-1]}")
        assert (answer.status_code, answer.json()["reason"]) == (410, "owner_lost")
        assert answer.json()["code"] == "session_gone"
        assert forged.status_code == 404
        async with client(proxy_app(new.app, alive=("old",))) as routed:
            answer = await routed.get(f"/v1/sessions/{id_}")
        assert (answer.status_code, answer.headers["x-session-owner"]) == (421, "old")


async def test_all_events_of_an_answer_can_be_pickled():
    q = np.zeros((300, 8, 64), np.float32)  # large answers are views of the memory of the result
    body = safetensors.numpy.save({"q": q})

    async def receive() -> Any:
        return {"type": "http.request", "body": body}

    events: list[Any] = []

    async def send(event: Any) -> None:
        events.append(pickle.loads(pickle.dumps(event)))

    header = [(b"content-type", b"application/x-safetensors")]
    scope = {"type": "http", "method": "POST", "path": "/v1/rotate", "query_string": b""}
    async with whole_service() as service:
        await proxy_app(service.app)({**scope, "headers": header}, receive, send)
    assert events[0]["status"] == 200
    answer = b"".join(event["body"] for event in events[1:])
    assert safetensors.numpy.load(answer)["q"].shape == q.shape


async def test_who_creates_a_session_gets_the_port_of_its_replica():
    async with whole_service(**KEY) as service:
        async with client(proxy_app(service.app, endpoint="http://10.0.0.7:4711")) as routed:
            created = await routed.post("/v1/sessions", json=SESSION)
            found = await routed.get(f"/v1/sessions/{created.json()['id']}")
        assert created.headers["x-session-endpoint"] == "http://10.0.0.7:4711"
        assert "x-session-endpoint" not in found.headers
        assert "x-request-id" not in found.headers, "Ray's proxy adds it"
        async with client(proxy_app(service.app)) as routed:
            created = await routed.post("/v1/sessions", json=SESSION)
        assert "x-session-endpoint" not in created.headers


async def test_a_service_that_does_not_start_says_why():
    @asynccontextmanager
    async def broken():
        raise RuntimeError("no device")
        yield

    sent: list[Any] = []

    async def send(event: Any) -> None:
        sent.append(event)

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def never(_: str) -> bool:
        return False

    app = ProxyApp(send, broken(), is_alive=never, endpoint=lambda: None)
    with pytest.raises(RuntimeError, match="no device"):
        await app({"type": "lifespan"}, receive, send)
    assert sent == [{"type": "lifespan.startup.failed", "message": "no device"}]


async def test_the_service_lives_between_the_two_events():
    events: asyncio.Queue[Any] = asyncio.Queue()
    sent: list[str] = []

    @asynccontextmanager
    async def living():
        sent.append("start")
        yield
        sent.append("end")

    async def send(event: Any) -> None:
        sent.append(event["type"])

    async def never(_: str) -> bool:
        return False

    app = ProxyApp(send, living(), is_alive=never, endpoint=lambda: None)
    events.put_nowait({"type": "lifespan.startup"})
    events.put_nowait({"type": "lifespan.shutdown"})
    await app({"type": "lifespan"}, events.get, send)
    complete = ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert sent == ["start", complete[0], "end", complete[1]]
