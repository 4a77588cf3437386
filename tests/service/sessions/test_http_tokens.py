"""Step, append, attend and truncate over HTTP: bits, guards, repeats and refusals."""

from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
import pytest_asyncio
import torch

from tests.service.conftest import every_test_in_one_loop
from tests.service.messages import check_problem
from tests.service.sessions.http_sessions import (
    HEAD_DIM,
    HEADS,
    HttpSessions,
    http_sessions,
    kv,
    part,
    qkv,
)

pytestmark = every_test_in_one_loop


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http() -> AsyncIterator[HttpSessions]:
    async with http_sessions() as http:
        yield http


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
async def test_answers_do_not_depend_on_how_tokens_were_appended(http, dtype):
    name = str(dtype).removeprefix("torch.")
    tokens, query = kv(10, dtype=dtype), {"q": qkv(1, seed=1, dtype=dtype)["q"]}
    outs = []
    for cuts in ([0, 10], [0, 3, 4, 10], [*range(11)]):
        session = await http.new(dtype=name)
        for start, stop in pairwise(cuts):
            answer = await http.ok(
                session, "append", part(tokens, start, stop), expected_length=start
            )
            assert answer["length"] == [stop]
        answer = await http.ok(session, "attend", query, return_lse=True)
        assert answer["length"] == [10]
        outs.append((answer["out"], answer["lse"]))
    assert outs[0][0].dtype is dtype
    for out, lse in outs[1:]:
        assert torch.equal(out, outs[0][0])
        assert torch.equal(lse, outs[0][1])


async def test_long_appends_run_in_pieces(http):
    tokens, query = kv(2500), {"q": qkv(70, seed=1)["q"]}
    whole, cut = await http.new(), await http.new()
    assert (await http.ok(whole, "append", tokens))["length"] == [2500]
    for start in range(0, 2500, 500):
        await http.ok(cut, "append", part(tokens, start, start + 500))
    outs = [(await http.ok(session, "attend", query))["out"] for session in (whole, cut)]
    assert torch.equal(*outs)
    step = await http.ok(whole, "step", qkv(2100, seed=2), expected_length=2500)
    again = await http.ok(whole, "step", qkv(2100, seed=2), expected_length=2500)
    assert again["length"] == step["length"] == [4600]
    assert step["out"].shape == (1, 2100, HEADS, HEAD_DIM)
    assert torch.equal(step["out"], again["out"])


async def test_a_step_answers_as_the_call_without_a_session(http):
    tokens, session = qkv(5), await http.new()
    out = None
    for at in range(5):
        answer = await http.ok(session, "step", part(tokens, at, at + 1), expected_length=at)
        assert answer["length"] == [at + 1]
        assert "compute" in answer.headers["server-timing"]
        out = answer["out"]
    whole = await http.post("/v1/attention", tokens, rope={"theta": 500.0})
    assert out.shape == (1, 1, HEADS, HEAD_DIM)
    torch.testing.assert_close(out, whole["out"][:, -1:], atol=1e-5, rtol=1e-5)


async def test_packed_rows_of_other_lengths(http):
    session = await http.new(batch=2)
    tokens = {name: x[0] for name, x in qkv(5).items()}
    packed = {**tokens, "cu_seqlens": torch.tensor([0, 2, 5])}
    answer = await http.ok(session, "step", packed)
    assert answer["length"] == [2, 3]
    alone = await http.new()
    of_second = {name: x[None, 2:] for name, x in tokens.items()}
    other = await http.ok(alone, "step", of_second)
    assert torch.equal(answer["out"][2:], other["out"][0])


async def test_layers_of_one_group_and_rows(http):
    session = await http.new(batch=2, layers=2)
    tokens = {name: torch.stack([x, x]) for name, x in qkv(3, batch=2).items()}
    answer = await http.ok(session, "step", tokens, layers=[0, 1])
    assert answer["lengths"] == [[3, 3], [3, 3]]
    assert torch.equal(answer["out"][0], answer["out"][1])
    row = {name: x[:1] for name, x in qkv(1).items()}
    answer = await http.ok(session, "step", row, layer=0, rows=[1])
    assert answer["length"] == [3, 4]
    missing = await http.call(session, "step", row)
    check_problem(missing.response, 422, "config", "layer must be given")
    refused = await http.call(session, "step", tokens, layers=[0, 1], expected_length=3)
    check_problem(refused.response, 409, "session_conflict", "other lengths")
    assert refused["lengths"] == [[3, 4], [3, 3]]


async def test_guards(http):
    session = await http.new()
    await http.ok(session, "append", kv(3))
    before = await http.state(session)
    refused = await http.call(session, "append", kv(1), expected_length=2)
    check_problem(refused.response, 409, "session_conflict", "other lengths")
    problem = refused.params
    assert (problem["layer"], problem["expected"], problem["length"]) == (0, [2], [3])
    assert problem["generation"] == 0
    refused = await http.call(session, "append", kv(1), expected_generation=1)
    check_problem(refused.response, 409, "session_conflict", "generation 0")
    assert await http.state(session) == before


async def test_a_repeat_is_not_appended_twice(http):
    session = await http.new()
    await http.ok(session, "append", kv(3))
    guard = {"expected_length": 3, "expected_generation": 0}
    first = await http.ok(session, "step", qkv(2, seed=1), **guard)
    again = await http.ok(session, "step", qkv(2, seed=1), **guard)
    assert again["length"] == first["length"] == [5]
    assert torch.equal(first["out"], again["out"])
    appended = await http.ok(session, "append", kv(2, seed=1), **guard)
    assert appended["length"] == [5]
    other = await http.call(session, "step", qkv(2, seed=2), **guard)
    check_problem(other.response, 409, "session_conflict", "")
    as_json = {name: x.tolist() for name, x in qkv(2, seed=1).items()}
    path = f"/v1/sessions/{session}/step"
    answer = await http.client.post(path, json={**as_json, **guard})
    assert answer.json()["length"] == [5], "the digest is that of the elements"


async def test_a_length_that_comes_back_is_refused_by_the_generation(http):
    session = await http.new()
    await http.ok(session, "append", kv(4))
    paused = {"expected_length": 4, "expected_generation": 0}
    await http.ok(session, "truncate", length=2)
    await http.ok(session, "append", kv(2, seed=7))
    refused = await http.call(session, "step", qkv(1), **paused)
    check_problem(refused.response, 409, "session_conflict", "generation 1, not 0")


async def test_truncate_and_op_id(http):
    session = await http.new()
    await http.ok(session, "append", kv(6))
    first = await http.ok(session, "truncate", drop=2, op_id="a", expected_generation=0)
    assert (first["length"], first["generation"]) == ([4], 1)
    again = await http.ok(session, "truncate", drop=2, op_id="a", expected_generation=0)
    assert dict(again.params) == dict(first.params)
    other = await http.call(session, "truncate", drop=1, op_id="a")
    check_problem(other.response, 422, "config", "op_id")
    longer = await http.call(session, "truncate", length=5)
    check_problem(longer.response, 409, "session_conflict", "")
    assert longer.params["length"] == [4]


REFUSALS: list[tuple[str, dict[str, Any], dict[str, Any], int, str, str]] = [
    ("step", qkv(1), {"window": 3}, 422, "unknown", "the session fixes it"),
    ("step", qkv(1), {"expected_lenght": 3}, 422, "unknown", "did you mean expected_length?"),
    ("step", kv(1), {}, 422, "shape", "missing required tensor 'q'"),
    ("step", {**qkv(1), "mask": torch.ones(1)}, {}, 422, "unknown", "unknown tensor mask"),
    ("step", qkv(1, dtype=torch.float16), {}, 422, "shape", "float32, the dtype of the session"),
    ("step", qkv(1, batch=2), {}, 422, "shape", "rows"),
    ("step", qkv(0), {}, 422, "shape", "at least one token"),
    ("step", qkv(1), {"layer": 1}, 422, "config", "layer must be below 1"),
    ("step", qkv(1), {"layer": True}, 422, "config", "layer must be"),
    ("step", qkv(1), {"rows": [0, 0]}, 422, "config", "rows must be"),
    ("step", qkv(1), {"rows": [1]}, 422, "config", "rows must be below 1"),
    ("step", qkv(1), {"out_dtype": "bfloat16"}, 422, "config", "out_dtype must be float32"),
    ("step", qkv(1), {"backend": "eager"}, 422, "config", "backend"),
    ("step", {**qkv(1), "positions": torch.zeros(1, 2).long()}, {}, 422, "shape", "positions"),
    ("attend", {"q": qkv(4)["q"]}, {}, 422, "shape", ""),
    ("attend", {"q": qkv(1)["q"]}, {"expected_length": 3}, 422, "unknown", ""),
    ("append", kv(6), {}, 413, "session_too_long", ""),
    ("truncate", {}, {}, 422, "config", "length must be given"),
    ("truncate", {}, {"length": -1}, 422, "config", "length must be"),
    ("truncate", {}, {"length": [1, 1]}, 422, "config", "length"),
    ("truncate", {}, {"drop": 4}, 409, "session_conflict", ""),
]


@pytest.mark.parametrize(("operation", "tensors", "params", "status", "code", "words"), REFUSALS)
async def test_a_refusal_leaves_the_session_unchanged(
    http, operation, tensors, params, status, code, words
):
    session = await http.new(max_tokens=8)
    await http.ok(session, "append", kv(3))
    before = await http.state(session)
    refused = await http.call(session, operation, tensors, **params)
    check_problem(refused.response, status, code, words)
    assert await http.state(session) == before


async def test_a_frozen_session_refuses_before_all_else(http):
    session = await http.new()
    await http.ok(session, "append", kv(3))
    await http.client.patch(f"/v1/sessions/{session}", json={"frozen": True})
    for operation in ("step", "append", "truncate"):
        refused = await http.call(session, operation, {}, nonsense=1)
        check_problem(refused.response, 423, "frozen", "")
    await http.ok(session, "attend", {"q": qkv(1)["q"]})


async def test_empty_appends_and_attends(http):
    session = await http.new()
    assert (await http.ok(session, "append", kv(0)))["length"] == [0]
    answer = await http.ok(session, "attend", {"q": qkv(0)["q"]}, return_lse=True)
    assert answer["out"].shape == (1, 0, HEADS, HEAD_DIM)
    assert answer["lse"].shape == (1, 0, HEADS)


async def test_a_create_with_keys_and_values(http):
    created = await http.create(
        kv(3), heads=HEADS, kv_heads=2, head_dim=HEAD_DIM, rope={"theta": 500.0}, max_tokens=4
    )
    assert created["length"] == [3]
    count = len((await http.client.get("/v1/sessions?limit=1000")).json()["sessions"])
    refused = await http.create(
        kv(5), heads=HEADS, kv_heads=2, head_dim=HEAD_DIM, rope={"theta": 500.0}, max_tokens=4
    )
    check_problem(refused.response, 413, "session_too_long", "")
    now = len((await http.client.get("/v1/sessions?limit=1000")).json()["sessions"])
    assert now == count, "nothing was created"


async def test_one_number_stands_for_the_positions_of_all_axes(http):
    rope = {"rope": {"axes": "mrope", "mrope_section": [1, 1, 2]}}
    text = torch.tensor([4, 5, 9])
    for batch in (1, 3):  # with 3 rows, positions of 3 axes look alike
        tokens = qkv(3, batch=batch)
        outs = []
        for positions in (text, text.expand(batch, 3), text.expand(3, batch, 3)):
            session = await http.new(batch=batch, **rope)
            answer = await http.ok(session, "step", tokens | {"positions": positions.contiguous()})
            outs.append(answer["out"])
        assert torch.equal(outs[0], outs[1])
        assert torch.equal(outs[0], outs[2])
    rows = torch.tensor([[0, 1, 2], [5, 6, 7], [8, 9, 10]])
    session = await http.new(batch=3, **rope)
    alone = await http.new(**rope)
    together = await http.ok(session, "step", tokens | {"positions": rows})
    last = {name: x[2:] for name, x in tokens.items()}
    other = await http.ok(alone, "step", last | {"positions": rows[2:]})
    assert torch.equal(together["out"][2:], other["out"])
