"""`POST /v1/step`: many sessions in one request."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import torch

from tests.service.conftest import every_test_in_one_loop
from tests.service.messages import check_problem
from tests.service.sessions.http_sessions import HttpSessions, http_sessions, kv, qkv

pytestmark = every_test_in_one_loop


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http() -> AsyncIterator[HttpSessions]:
    async with http_sessions() as http:
        yield http


def packed(*lengths: int, seed: int = 5) -> dict[str, torch.Tensor]:
    """Return tokens of several rows."""
    tokens = {name: x[0] for name, x in qkv(sum(lengths), seed=seed).items()}
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    return {**tokens, "cu_seqlens": bounds}


async def test_answers_are_those_of_single_steps(http):
    ids, alone = [], []
    for seed in range(3):
        for sessions in (ids, alone):
            session = await http.new()
            await http.ok(session, "append", kv(seed + 2, seed=seed))
            sessions.append(session)
    tokens = packed(1, 2, 1)
    answer = await http.post(
        "/v1/step",
        tokens,
        sessions=ids,
        layer=0,
        expected_lengths=[2, 3, None],
        expected_generations=[0, None, 0],
        return_lse=True,
    )
    assert answer.status == 200
    assert answer["out"].shape == (4, 4, 8)
    bounds = tokens.pop("cu_seqlens").tolist()
    for index, session in enumerate(alone):
        rows = slice(bounds[index], bounds[index + 1])
        single = await http.ok(
            session, "step", {name: x[rows][None] for name, x in tokens.items()}, return_lse=True
        )
        assert torch.equal(answer["out"][rows], single["out"][0])
        assert torch.equal(answer["lse"][rows], single["lse"][0])
        result = answer["results"][index]
        assert (result["session"], result["status"]) == (ids[index], 200)
        assert result["length"] == single["length"]


async def test_one_bad_session_does_not_fail_the_others(http):
    good, behind, frozen, gone, other = [await http.new() for _ in range(4)] + [
        await http.new(attention={"window": 3})
    ]
    await http.client.patch(f"/v1/sessions/{frozen}", json={"frozen": True})
    await http.client.delete(f"/v1/sessions/{gone}")
    ids = [good, behind, frozen, gone, other]
    answer = await http.post(
        "/v1/step",
        packed(1, 1, 1, 1, 1),
        sessions=ids,
        expected_lengths=[0, 7, None, None, None],
        return_lse=True,
    )
    assert answer.status == 200
    results = answer["results"]
    assert [each["status"] for each in results] == [200, 409, 423, 410, 422]
    assert [each.get("code") for each in results] == [
        *(None, "session_conflict", "frozen", "session_gone", "config")
    ]
    assert results[3]["reason"] == "deleted"
    assert results[1]["length"] == [0]
    assert answer["out"][0].abs().sum() > 0
    assert torch.equal(answer["out"][1:], torch.zeros(4, 4, 8))
    assert answer["lse"][1:].isneginf().all()
    assert (await http.inspect(good))["length"] == [1]
    assert (await http.inspect(behind))["length"] == [0]


async def test_a_repeat_is_recognised(http):
    ids = [await http.new(), await http.new(batch=2)]
    guard = {"sessions": ids, "expected_lengths": [0, 0]}
    first = await http.post("/v1/step", packed(1, 2, 2), **guard)
    again = await http.post("/v1/step", packed(1, 2, 2), **guard)
    assert [each["length"] for each in again["results"]] == [[1], [2, 2]]
    assert torch.equal(first["out"], again["out"])


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"sessions": []}, "config", "sessions must be a list of ids"),
        ({"sessions": "twice"}, "config", "each session is once"),
        ({"layers": [0]}, "config", "layers must be"),
        ({"expected_lengths": [0]}, "config", "expected_lengths must be"),
        ({"expected_lengths": [0, "x"]}, "config", "expected_lengths must be"),
        ({"expected_length": 0}, "unknown", "did you mean expected_lengths?"),
    ],
)
async def test_a_request_that_cannot_be_read(http, change, code, words):
    ids = [await http.new(), await http.new()]
    if change.get("sessions") == "twice":
        change = {"sessions": [ids[0], ids[0]]}
    refused = await http.post("/v1/step", packed(1, 1), **{"sessions": ids} | change)
    check_problem(refused.response, 422, code, words)
    assert (await http.inspect(ids[0]))["length"] == [0]


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 1)])
async def test_positions_of_another_number_of_tokens(http, shape):
    ids = [await http.new(), await http.new()]
    tokens = packed(1, 1) | {"positions": torch.zeros(shape, dtype=torch.int64)}
    refused = await http.post("/v1/step", tokens, sessions=ids)
    check_problem(refused.response, 422, "shape", "positions must be [tokens]")
    assert (await http.inspect(ids[0]))["length"] == [0]


async def test_rows_that_are_missing(http):
    ids = [await http.new(), await http.new(batch=2)]
    refused = await http.post("/v1/step", packed(1, 1), sessions=ids)
    check_problem(refused.response, 422, "config", "cu_seqlens")
