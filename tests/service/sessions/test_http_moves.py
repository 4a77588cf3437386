"""Operations that move bytes: select_tail, rebase, and the joining of segments."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import torch

from tests.service.conftest import every_test_in_one_loop
from tests.service.messages import check_problem
from tests.service.sessions.http_sessions import HttpSessions, http_sessions, kv, part, qkv

pytestmark = every_test_in_one_loop

QUERY = {"q": qkv(1, seed=9)["q"]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http() -> AsyncIterator[HttpSessions]:
    async with http_sessions() as http:
        yield http


async def test_select_tail_keeps_the_accepted_path_of_a_tree(http):
    tokens, session = kv(8), await http.new()
    positions = torch.tensor([0, 1, 2, 3, 4, 4, 5, 5])
    await http.ok(session, "append", {**tokens, "positions": positions})
    answer = await http.ok(session, "select_tail", n=4, kept=[1, 3], op_id="x")
    assert (answer["length"], answer["generation"]) == ([6], 1)
    again = await http.ok(session, "select_tail", n=4, kept=[1, 3], op_id="x")
    assert dict(again.params) == dict(answer.params)
    fresh, kept = await http.new(), [0, 1, 2, 3, 5, 7]
    await http.ok(fresh, "append", {name: x[:, kept].contiguous() for name, x in tokens.items()})
    expected = await http.ok(fresh, "attend", QUERY)
    assert torch.equal((await http.ok(session, "attend", QUERY))["out"], expected["out"])


async def test_rebase_changes_the_frequencies_and_the_document(http):
    tokens, session = kv(6), await http.new()
    await http.ok(session, "append", tokens)
    before = (await http.inspect(session)).params
    answer = await http.ok(session, "rebase", to={"theta": 9000.0})
    assert (answer["length"], answer["generation"]) == ([6], 1)
    document = (await http.inspect(session)).params
    assert document["configuration"]["groups"][0]["rope"]["theta"] == 9000.0
    assert document["configuration_digest"] != before["configuration_digest"]
    fresh = await http.new(rope={"theta": 9000.0})
    await http.ok(fresh, "append", tokens)
    expected = await http.ok(fresh, "attend", QUERY)
    out = (await http.ok(session, "attend", QUERY))["out"]
    torch.testing.assert_close(out, expected["out"], atol=1e-5, rtol=1e-5)


async def test_many_segments_are_joined(http):
    session = await http.new()
    await http.ok(session, "append", kv(24))
    for start in range(1, 13):
        await http.ok(session, "shift", start=start, stop=24, delta=1)
    assert (await http.inspect(session))["segments"][0] <= 9
    fresh = await http.new()
    positions = torch.arange(24) + torch.arange(24).clamp(max=12)
    await http.ok(fresh, "append", {**kv(24), "positions": positions})
    expected = await http.ok(fresh, "attend", QUERY)
    out = (await http.ok(session, "attend", QUERY))["out"]
    torch.testing.assert_close(out, expected["out"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("operation", "params", "status", "code", "words"),
    [
        ("select_tail", {"n": 2}, 422, "config", "kept"),
        ("select_tail", {"n": 2, "kept": [1, 0]}, 422, "config", "increasing offsets"),
        ("select_tail", {"n": 2, "kept": [0, 2]}, 422, "config", "below n = 2"),
        ("select_tail", {"n": 2, "kept": [[0], [1]]}, 422, "config", "kept"),
        ("select_tail", {"n": 4, "kept": [0]}, 409, "session_conflict", ""),
        ("select_tail", {"n": 1, "kept": [0], "expected_length": 2}, 409, "session_conflict", ""),
        ("rebase", {}, 422, "config", "to must be"),
        ("rebase", {"to": {"theta": "x"}}, 422, "config", "to.theta must be"),
        ("rebase", {"to": {"theta": 5.0}, "groups": [1]}, 422, "config", "groups"),
        ("rebase", {"to": {"rope_type": "dynamic", "factor": 2.0}}, 422, "config", ""),
    ],
)
async def test_a_refusal_leaves_the_session_unchanged(http, operation, params, status, code, words):
    session = await http.new()
    await http.ok(session, "append", kv(3))
    before = await http.state(session)
    refused = await http.call(session, operation, **params)
    check_problem(refused.response, status, code, words)
    assert await http.state(session) == before


async def test_storage_of_8_bits(http):
    """The document tells it, the bytes are those of 8 bits, and answers are near those of 32."""
    tokens = kv(8)
    plain, small = await http.new(max_tokens=64), await http.new(max_tokens=64, kv_dtype="e4m3")
    documents = [(await http.inspect(each)).params for each in (plain, small)]
    assert [each["configuration"]["kv_dtype"] for each in documents] == ["same", "e4m3"]
    # two heads of 8 numbers, of keys and of values, in 64 tokens; a scale has 4 bytes
    assert [each["reserved_bytes"] for each in documents] == [64 * 32 * 4, 64 * (32 + 4 * 4)]
    for session in (plain, small):
        await http.ok(session, "append", tokens)
    outs = [(await http.ok(each, "attend", QUERY))["out"] for each in (plain, small)]
    assert 0 < (outs[1] - outs[0]).norm() / outs[0].norm() <= 6e-2
    one_by_one = await http.new(kv_dtype="e4m3")
    for i in range(8):
        await http.ok(one_by_one, "append", part(tokens, i, i + 1))
    assert torch.equal((await http.ok(one_by_one, "attend", QUERY))["out"], outs[1])
    (fork,) = (await http.ok(small, "fork"))["ids"]
    assert torch.equal((await http.ok(fork, "attend", QUERY))["out"], outs[1])
    assert (await http.inspect(fork))["bytes"]["own"] == 0
