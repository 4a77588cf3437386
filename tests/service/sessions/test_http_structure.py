"""Fork, reorder, evict, shift and attach over HTTP, and refusals that change nothing."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import torch

from tests.service.conftest import every_test_in_one_loop
from tests.service.messages import check_problem
from tests.service.sessions.http_sessions import (
    SMALL,
    HttpSessions,
    http_sessions,
    kv,
    part,
    qkv,
)

pytestmark = every_test_in_one_loop

QUERY = {"q": qkv(1, seed=9)["q"]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http() -> AsyncIterator[HttpSessions]:
    async with http_sessions() as http:
        yield http


async def test_forks_share_and_diverge(http):
    session = await http.new(max_tokens=16)
    await http.ok(session, "append", kv(6))
    before = await http.ok(session, "attend", QUERY)
    forked = await http.ok(session, "fork", count=2, ttl_s=60, labels=["x"])
    assert forked.status == 201
    assert forked.headers["location"] == f"/v1/sessions/{forked['ids'][0]}"
    first, second = forked["ids"]
    assert [each["length"] for each in forked["sessions"]] == [[6], [6]]
    assert (await http.ok(first, "append", kv(1, seed=1)))["length"] == [7]
    assert (await http.ok(second, "append", kv(1, seed=2)))["length"] == [7]
    for each in (session, first, second):
        await http.ok(each, "truncate", length=6)
        assert torch.equal((await http.ok(each, "attend", QUERY))["out"], before["out"])
    cut = await http.post("/v1/sessions", {}, fork=session, length=2, name="cut")
    assert (cut.status, cut["id"], cut["sessions"][0]["length"]) == (201, cut["ids"][0], [2])
    again = await http.post("/v1/sessions", {}, fork="cut")
    assert again["sessions"][0]["length"] == [2]


async def test_a_key_forks_once(http):
    session = await http.new()
    headers = {"idempotency-key": "fork once"}
    path = f"/v1/sessions/{session}/fork"
    first = await http.client.post(path, json={"count": 2}, headers=headers)
    again = await http.client.post(path, json={"count": 2}, headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["ids"] == again.json()["ids"]


async def test_a_frozen_session_is_forked_and_attached_from(http):
    session = await http.new()
    await http.ok(session, "append", kv(4))
    await http.client.patch(f"/v1/sessions/{session}", json={"frozen": True, "name": "prompt"})
    forked = await http.ok(session, "fork")
    assert forked["sessions"][0]["frozen"] is False
    other = await http.new()
    answer = await http.ok(other, "attach", source="prompt", start=1, stop=4, position=0)
    assert (answer["length"], answer["generation"]) == ([3], 1)
    fresh = await http.new()
    await http.ok(fresh, "append", part(kv(4), 1, 4))
    expected = await http.ok(fresh, "attend", QUERY)
    out = (await http.ok(other, "attend", QUERY))["out"]
    torch.testing.assert_close(out, expected["out"], atol=1e-5, rtol=1e-5)


async def test_reorder(http):
    session = await http.new(batch=2)
    await http.ok(session, "append", kv(3, batch=2))
    row = {"q": QUERY["q"].expand(2, -1, -1, -1)}
    before = await http.ok(session, "attend", row)
    answer = await http.ok(session, "reorder", rows=[1, 1, 0])
    assert answer["length"] == [3, 3, 3]
    after = await http.ok(session, "attend", {"q": QUERY["q"].expand(3, -1, -1, -1)})
    assert torch.equal(after["out"], before["out"][[1, 1, 0]])


async def test_streaming_llm(http):
    session = await http.new()
    tokens = kv(10)
    await http.ok(session, "append", tokens)
    answer = await http.ok(session, "evict", sinks=2, recent=4)
    assert answer["length"] == [6]
    fresh = await http.new()
    kept = {name: torch.cat([x[:, :2], x[:, 6:]], 1) for name, x in tokens.items()}
    await http.ok(fresh, "append", kept)
    expected = await http.ok(fresh, "attend", QUERY)
    out = (await http.ok(session, "attend", QUERY))["out"]
    torch.testing.assert_close(out, expected["out"], atol=1e-5, rtol=1e-5)
    assert (await http.ok(session, "evict", sinks=2, recent=4))["length"] == [6]


async def test_shift(http):
    session = await http.new()
    tokens = kv(4)
    await http.ok(session, "append", tokens)
    answer = await http.ok(session, "shift", start=2, stop=4, delta=5, op_id="s")
    assert (answer["length"], answer["generation"]) == ([4], 1)
    fresh = await http.new()
    await http.ok(fresh, "append", {**tokens, "positions": torch.tensor([0, 1, 7, 8])})
    expected = await http.ok(fresh, "attend", QUERY)
    out = (await http.ok(session, "attend", QUERY))["out"]
    torch.testing.assert_close(out, expected["out"], atol=1e-5, rtol=1e-5)


REFUSALS: list[tuple[str, dict[str, Any], int, str, str]] = [
    ("fork", {"count": 65}, 422, "config", "count must be"),
    ("fork", {"length": 4}, 409, "session_conflict", ""),
    ("fork", {"count": 2, "name": "x"}, 422, "config", "name"),
    ("fork", {"rows": [1]}, 422, "config", "rows"),
    ("fork", {"ttl_s": 1e9}, 422, "config", "ttl_s"),
    ("fork", {"expected_length": 3}, 422, "unknown", ""),
    ("reorder", {"rows": []}, 422, "config", "rows"),
    ("reorder", {"rows": [0] * 1025}, 422, "config", "rows"),
    ("reorder", {"rows": [2]}, 422, "config", "rows"),
    ("evict", {"start": 1}, 422, "config", "stop"),
    ("evict", {"start": 1, "stop": 4}, 422, "config", "start"),
    ("evict", {"start": -1, "stop": 2}, 422, "config", "start"),
    ("evict", {"start": 0, "stop": 1, "sinks": 1, "recent": 1}, 422, "config", "start"),
    ("evict", {"sinks": 1}, 422, "config", "recent"),
    ("evict", {"start": 0, "stop": 1, "close": 1}, 422, "config", "close"),
    ("evict", {"start": 0, "stop": 1, "expected_length": 2}, 409, "session_conflict", ""),
    ("shift", {"start": 0, "stop": 1, "delta": "x"}, 422, "config", "delta"),
    ("shift", {"start": 0, "stop": 1, "delta": [1, 2]}, 422, "config", "delta"),
    ("attach", {}, 422, "config", "source"),
    ("attach", {"source": "nobody"}, 404, "no_session", ""),
    ("attach", {"source": "other configuration"}, 422, "config", "source"),
    ("attach", {"source": "same", "start": 2, "stop": 4}, 422, "config", "start"),
    ("attach", {"source": "long"}, 413, "session_too_long", ""),
]


@pytest.mark.parametrize(("operation", "params", "status", "code", "words"), REFUSALS)
async def test_a_refusal_leaves_the_session_unchanged(http, operation, params, status, code, words):
    others = {"other configuration": {"head_dim": 16}, "same": {}, "long": {}}
    for name, options in others.items():
        if params.get("source") == name:
            other = await http.create(**SMALL | options, name=name)
            if "head_dim" not in options:
                await http.ok(other["id"], "append", kv(3 if name == "same" else 9))
    session = await http.new(max_tokens=8)
    await http.ok(session, "append", kv(3))
    before = await http.state(session)
    refused = await http.call(session, operation, **params)
    check_problem(refused.response, status, code, words)
    assert await http.state(session) == before


async def test_layers_that_differ(http):
    session = await http.new(layers=2)
    await http.ok(session, "append", kv(2), layer=0)
    before = await http.state(session)
    for operation, params in (
        ("evict", {"start": 0, "stop": 0}),
        ("evict", {"start": 0, "stop": 2}),
        ("evict", {"sinks": 1, "recent": 0}),
        ("shift", {"start": 0, "stop": 2, "delta": 1}),
        ("reorder", {"rows": [0]}),
        ("fork", {"strict": True}),
    ):
        refused = await http.call(session, operation, **params)
        check_problem(refused.response, 409, "layers_differ", "")
        assert refused.params["lengths"] == [[2], [0]]
    target = await http.new(layers=2)
    refused = await http.call(target, "attach", source=session, start=0, stop=2)
    check_problem(refused.response, 409, "layers_differ", "")
    assert await http.state(session) == before
    assert (await http.ok(session, "fork"))["sessions"][0]["lengths"] == [[0], [0]]
    assert (await http.ok(session, "truncate", drop=0))["length"] == [0]


async def test_memory_is_refused_and_comes_back(http):
    """A create that does not fit is 503, an append 507; both tell the bytes."""
    async with http_sessions(kv_bytes=2**18) as small:
        big = dict(SMALL, heads=4, kv_heads=4, head_dim=128, max_tokens=32)
        first = await small.create(**big)
        assert first.status == 201
        refused = await small.create(**big | {"max_tokens": 48})
        check_problem(refused.response, 503, "kv_memory", "free")
        assert refused.params["wanted_bytes"] > refused.params["free_bytes"]
        assert "retry-after" in refused.headers
        never = await small.create(**big | {"max_tokens": 10_000})
        check_problem(never.response, 413, "session_too_long", "")
        growing = await small.create(**{name: x for name, x in big.items() if name != "max_tokens"})
        tokens = {name: torch.zeros(1, 48, 4, 128) for name in ("k", "v")}
        before = await small.state(growing["id"])
        refused = await small.call(growing["id"], "append", tokens)
        check_problem(refused.response, 507, "kv_memory", "free")
        assert await small.state(growing["id"]) == before
        await small.client.delete(f"/v1/sessions/{first['id']}")
        assert (await small.call(growing["id"], "append", tokens)).status == 200
