"""Export and import of sessions over HTTP."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
import safetensors.torch
import torch
from torch import Tensor

from tests.service.conftest import every_test_in_one_loop
from tests.service.messages import check_problem
from tests.service.sessions.http_sessions import (
    SAFETENSORS,
    SMALL,
    Answer,
    HttpSessions,
    http_sessions,
    kv,
    part,
    qkv,
)

pytestmark = every_test_in_one_loop

Header = dict[str, Any]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http() -> AsyncIterator[HttpSessions]:
    async with http_sessions() as http:
        yield http


async def exported(http: HttpSessions, session_id: str, query: str = "") -> bytes:
    response = await http.client.get(f"/v1/sessions/{session_id}/export{query}")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == SAFETENSORS
    assert int(response.headers["content-length"]) == len(response.content)
    return response.content


async def imported(http: HttpSessions, body: bytes, query: str = "", headers: Any = None) -> Answer:
    headers = {"content-type": SAFETENSORS, **(headers or {})}
    response = await http.client.post(f"/v1/sessions{query}", content=body, headers=headers)
    return Answer(response)


def taken_apart(body: bytes) -> tuple[Header, Header, bytes]:
    """Return the header, its parameters, and the data."""
    size = int.from_bytes(body[:8], "little")
    header = json.loads(body[8 : 8 + size])
    return header, json.loads(header["__metadata__"]["params"]), body[8 + size :]


def put_together(header: Header, params: Header, data: bytes) -> bytes:
    header = {**header, "__metadata__": {"params": json.dumps(params)}}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


async def session_with_tokens(http: HttpSessions, **params: Any) -> str:
    session = await http.new(batch=2, layers=2, max_tokens=32, **params)
    dtype = {"bfloat16": torch.bfloat16}.get(params.get("dtype", ""), torch.float32)
    for layer in range(2):
        tensors = kv(7, batch=2, seed=layer, dtype=dtype)
        await http.ok(session, "append", tensors, layer=layer)
        more = kv(2, batch=2, seed=layer + 5, dtype=dtype) | {"positions": positions(20, 2)}
        await http.ok(session, "append", more, layer=layer)
    return session


def positions(start: int, num: int) -> Tensor:
    return torch.arange(start, start + num).expand(2, num).contiguous()


async def usage(http: HttpSessions) -> tuple[int, ...]:
    """Return what an import must not change when it is refused."""
    app = http.client._transport.app  # type: ignore[attr-defined]
    arena = app.sessions._handler.services.arena
    return arena.used_bytes, arena.reserved_bytes, len(app.sessions._handler.services.registry)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_an_import_answers_with_the_same_bits(http, dtype):
    session = await session_with_tokens(http, dtype=dtype)
    await http.ok(session, "evict", start=1, stop=3)
    await http.ok(session, "shift", start=4, stop=6, delta=5)
    body = await exported(http, session)
    copy = await imported(http, body, "?ttl_s=60.5&name=copy&label=a&label=b")
    assert copy.status == 201, copy.params
    assert (copy["name"], copy["labels"], copy["generation"]) == ("copy", ["a", "b"], 0)
    assert 59 < copy["expires_in_s"] <= 60.5
    assert copy.headers["location"] == f"/v1/sessions/{copy['id']}"
    before = await http.inspect(session)
    for name in ("length", "lengths", "segments", "configuration", "configuration_digest"):
        assert copy[name] == before[name], name
    assert copy["reserved_bytes"] == before["reserved_bytes"]
    new = qkv(3, batch=2, seed=9, dtype=getattr(torch, dtype))
    for number in range(3):
        step = part(new, number, number + 1)
        for layer in range(2):
            answers = [
                await http.ok(each, "step", step, layer=layer) for each in (session, copy["id"])
            ]
            assert torch.equal(answers[0]["out"], answers[1]["out"])
    assert await exported(http, session) == await exported(http, copy["id"])
    for each in (session, copy["id"]):
        await http.client.delete(f"/v1/sessions/{each}")


async def test_the_format(http):
    session = await session_with_tokens(http)
    _, params, _ = taken_apart(body := await exported(http, session))
    assert params["format_version"] == 1
    assert params["form"] == "stored"
    assert params["rotated"] is True
    assert params["lengths"] == [[9, 9], [9, 9]]
    assert params["start"] == [0, 0]
    assert params["configuration"] == (await http.inspect(session))["configuration"]
    tensors = safetensors.torch.load(body)
    assert tensors["k.0.1"].shape == (2, 9, 8)
    assert tensors["positions.0"].tolist() == [*range(7), 20, 21]
    assert tensors["segments.0"].tolist() == [[0, 0, 0, 0], [7, 20, 0, -13]]
    v = kv(7, batch=2, seed=1)["v"]
    assert torch.equal(tensors["v.1.1"][:, :7], v[1].transpose(0, 1))
    names = {*tensors}
    query = "?form=raw&rows=1&layers=1&start=2&stop=7&strict=true"
    part_of = safetensors.torch.load(await exported(http, session, query))
    assert {*part_of} == {"positions.1", "segments.1", "k.1.1", "v.1.1"} < names
    k = kv(7, batch=2, seed=1)["k"]
    assert torch.allclose(part_of["k.1.1"], k[1, 2:7].transpose(0, 1), atol=1e-6)
    await http.client.delete(f"/v1/sessions/{session}")


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("?form=other", 400, "bad_query"),
        ("?rows=1-", 400, "bad_query"),
        ("?rows=1-0", 400, "bad_query"),
        ("?layers=0-999999", 400, "bad_query"),
        ("?start=-1", 400, "bad_query"),
        ("?start=1&start=2", 400, "bad_query"),
        ("?strict=1", 400, "bad_query"),
        ("?from=1", 422, "unknown"),
        ("?rows=2", 422, "config"),
        ("?rows=1,1", 422, "config"),
        ("?layers=2", 422, "config"),
        ("?stop=10", 422, "config"),
        ("?start=5&stop=4", 422, "config"),
    ],
)
async def test_queries_that_are_refused(http, query, status, code):
    session = await session_with_tokens(http)
    before = await usage(http)
    response = await http.client.get(f"/v1/sessions/{session}/export{query}")
    check_problem(response, status, code, "")
    assert await usage(http) == before
    await http.client.delete(f"/v1/sessions/{session}")


async def test_uneven_layers_are_cut_or_refused(http):
    session = await session_with_tokens(http)
    await http.ok(session, "append", kv(1, batch=2), layer=0)
    _, params, _ = taken_apart(await exported(http, session))
    assert params["lengths"] == [[9, 9], [9, 9]]
    refused = await http.client.get(f"/v1/sessions/{session}/export?strict=true")
    check_problem(refused, 409, "layers_differ", "")
    await http.client.delete(f"/v1/sessions/{session}")


async def test_a_window_that_has_moved_on(http):
    session = await http.new(attention={"window": 6}, rollback=2)
    tokens = qkv(40)
    for start, stop in ((0, 38), (38, 39)):
        await http.ok(session, "append", part(kv(40), start, stop))
    body = await exported(http, session)
    _, params, _ = taken_apart(body)
    assert params["start"][0] > 20
    assert params["lengths"] == [[39]]
    copy = await imported(http, body)
    assert (copy.status, copy["length"]) == (201, [39])
    step = part(tokens, 39, 40)
    answers = [await http.ok(each, "step", step) for each in (session, copy["id"])]
    assert torch.equal(answers[0]["out"], answers[1]["out"])
    gone = await http.client.get(f"/v1/sessions/{session}/export?start=3")
    check_problem(gone, 409, "rolled_past", "")
    for each in (session, copy["id"]):
        refused = await http.call(each, "truncate", length=5)
        assert (refused.status, refused["code"]) == (409, "rolled_past")


def _entry(name: str, **members: Any) -> Callable[[Header, Header], None]:
    return lambda header, _: header[name].update(members)


def _param(**members: Any) -> Callable[[Header, Header], None]:
    return lambda _, params: params.update(members)


def _configured(**members: Any) -> Callable[[Header, Header], None]:
    return lambda _, params: params["configuration"].update(members)


def _group(**members: Any) -> Callable[[Header, Header], None]:
    return lambda _, params: params["configuration"]["groups"][0].update(members)


def _dropped(name: str) -> Callable[[Header, Header], object]:
    return lambda _, params: params.pop(name)


REFUSED: dict[str, tuple[Callable[[Header, Header], object], int]] = {
    "another version": (_param(format_version=2), 422),
    "a version of another type": (_param(format_version="1"), 422),
    "another form": (_param(form="raw"), 422),
    "a part": (_param(whole=False), 422),
    "not rotated": (_param(rotated=False), 422),
    "another digest": (_param(rope_digest="0" * 32), 422),
    "no digest": (_dropped("rope_digest"), 422),
    "another kv_dtype": (_param(kv_dtype="e4m3"), 422),
    "other lengths": (_param(lengths=[[8, 9], [8, 9]]), 422),
    "huge lengths": (_param(lengths=[[2**61, 9], [2**61, 9]]), 422),
    "lengths without end": (_param(lengths=[[2**70, 9], [2**70, 9]]), 422),
    "uneven lengths": (_param(lengths=[[9, 9], [9, 8]]), 422),
    "lengths of one layer": (_param(lengths=[[9, 9]]), 422),
    "lengths of no row": (_param(lengths=[[], []]), 422),
    "negative lengths": (_param(lengths=[[-9, 9], [-9, 9]]), 422),
    "lengths of texts": (_param(lengths=[["9", 9], ["9", 9]]), 422),
    "a start": (_param(start=[1, 0]), 422),
    "a start behind the end": (_param(start=[10, 0]), 422),
    "no starts": (_param(start=[]), 422),
    "segments of too many entries": (_param(stored_segments=[[[3, 0]], [[2, 0]]]), 422),
    "segments of no entries": (_param(stored_segments=[[[0, 0], [2, 0]], [[2, 0]]]), 422),
    "segments that do not run on": (_param(stored_segments=[[[2, 1]], [[1, 0], [1, 0]]]), 422),
    "segments without shifts": (_param(stored_segments=[[[2]], [[2]]]), 422),
    "segments of texts": (_param(stored_segments=[[["a", 0]], [[2, 0]]]), 422),
    "segments of one row": (_param(stored_segments=[[[2, 0]]]), 422),
    "no configuration": (_dropped("configuration"), 422),
    "an id in the configuration": (_configured(name="x"), 422),
    "more batch": (_configured(batch=2000), 422),
    "max_tokens below the length": (_configured(max_tokens=8), 413),
    "max_tokens beyond the arena": (_configured(max_tokens=2**40), 413),
    "another dtype of the configuration": (_configured(dtype="float16"), 422),
    "other heads": (_group(kv_heads=1), 422),
    "another theta": (_group(rope={"theta": 501.0}), 422),
    "more layers": (_group(layers=[0, 1, 2]), 422),
    "another dtype": (_entry("k.0.0", dtype="I32"), 422),
    "positions of float": (_entry("positions.0", dtype="F64"), 422),
    "another shape": (_entry("k.0.0", shape=[9, 2, 8]), 422),
    "a flat shape": (_entry("k.0.0", shape=[144]), 422),
    "a moved offset": (_entry("k.0.0", data_offsets=[0, 576]), 400),
    "an offset of other length": (_entry("k.0.0", data_offsets=[272, 273]), 422),
    "a negative offset": (_entry("k.0.0", data_offsets=[-576, 0]), 422),
    "a huge shape": (_entry("k.0.0", shape=[2**40, 2**40, 8]), 413),
    "a row too many": (lambda header, _: header.update({"k.0.2": header.pop("k.0.1")}), 422),
    "a name with zeros": (lambda header, _: header.update({"k.0.01": header.pop("k.0.1")}), 422),
    "a name of its own": (lambda header, _: header.update({"kk": header.pop("k.0.1")}), 422),
    "no metadata": (lambda header, _: header.update({"k.0.1": 1}), 400),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_altered_headers_are_refused_before_anything_is_allocated(http, name):
    session = await session_with_tokens(http)
    header, params, data = taken_apart(await exported(http, session))
    change, status = REFUSED[name]
    change(header, params)
    before = await usage(http)
    answer = await imported(http, put_together(header, params, data))
    assert answer.status == status, answer.params
    assert await usage(http) == before
    await http.client.delete(f"/v1/sessions/{session}")


NUMBERS = {
    "positions": [("positions.0", 0, 1), ("positions.0", 3, 2**60), ("positions.0", 0, -(2**63))],
    "starts": [("segments.0", 0, 1), ("segments.0", 4, 0), ("segments.0", 4, 9)],
    "huge starts": [("segments.0", 4, 2**62), ("segments.0", 4, -(2**63))],
    "bases": [("segments.0", 1, 1), ("segments.0", 1, 2**62), ("segments.0", 1, -(2**63))],
    "shifts": [("segments.0", 2, 1), ("segments.0", 6, 2**63 - 1), ("segments.0", 6, -(2**63))],
    "indices": [("segments.0", 3, -1), ("segments.0", 7, -14), ("segments.0", 7, 2**63 - 1)],
}


@pytest.mark.parametrize("name", NUMBERS)
async def test_altered_numbers_are_refused(http, name):
    session = await session_with_tokens(http)
    header, params, data = taken_apart(await exported(http, session))
    before = await usage(http)
    for tensor, number, value in NUMBERS[name]:
        start = header[tensor]["data_offsets"][0] + 8 * number
        changed = data[:start] + value.to_bytes(8, "little", signed=True) + data[start + 8 :]
        answer = await imported(http, put_together(header, params, changed))
        assert answer.status == 422, (tensor, number, value, answer.params)
        assert await usage(http) == before
    await http.client.delete(f"/v1/sessions/{session}")


async def test_truncated_and_longer_bodies_are_refused(http):
    session = await session_with_tokens(http)
    body = await exported(http, session)
    before = await usage(http)
    for end in [*range(16), *range(16, len(body), 97), len(body) - 1]:
        for is_chunked in (False, True):
            sent = _chunks(body[:end]) if is_chunked else body[:end]
            answer = await imported(http, sent)
            assert answer.status in (400, 422), (end, answer.params)
            assert await usage(http) == before, end
    for sent in (body + b"\0", _chunks(body + b"\0")):
        answer = await imported(http, sent)
        assert (answer.status, answer["code"]) == (400, "bad_message")
        assert await usage(http) == before
    await http.client.delete(f"/v1/sessions/{session}")


async def _chunks(body: bytes, size: int = 301) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


async def test_mutated_bytes_never_leave_a_trace(http):
    session = await session_with_tokens(http)
    body = await exported(http, session)
    size = 8 + int.from_bytes(body[:8], "little")
    before = await usage(http)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        place = int(torch.randint(0, size + 400, (), generator=generator))
        value = int(torch.randint(0, 256, (), generator=generator))
        answer = await imported(http, body[:place] + bytes([value]) + body[place + 1 :])
        assert answer.status in (201, 400, 413, 422), (place, value, answer.params)
        if answer.status == 201:
            await http.ok(answer["id"], "step", qkv(1, batch=2), layer=0)
            await http.client.delete(f"/v1/sessions/{answer['id']}")
        assert await usage(http) == before, (place, value)
    await http.client.delete(f"/v1/sessions/{session}")


async def test_nan_stays_in_its_row(http):
    session = await session_with_tokens(http)
    header, params, data = taken_apart(await exported(http, session))
    start, end = header["k.0.0"]["data_offsets"]
    nan = torch.full(((end - start) // 4,), torch.nan).numpy().tobytes()
    answer = await imported(http, put_together(header, params, data[:start] + nan + data[end:]))
    assert answer.status == 201
    out = (await http.ok(answer["id"], "step", qkv(1, batch=2), layer=0))["out"]
    assert out[0].isnan().all()
    assert out[1].isfinite().all()
    for each in (session, answer["id"]):
        await http.client.delete(f"/v1/sessions/{each}")


async def test_an_import_may_be_longer_than_other_bodies(http):
    session = await http.new(max_tokens=9000)
    for seed in range(3):
        await http.ok(session, "append", kv(3000, seed=seed))
    body = await exported(http, session)
    assert len(body) > 2**20, "the limit of bodies here"
    copy = await imported(http, _chunks(body, 4001))
    assert copy.status == 201, copy.params
    assert await exported(http, copy["id"]) == body
    refused = await imported(http, body, "?labels=x")
    assert (refused.status, refused["code"]) == (422, "unknown")
    for each in (session, copy["id"]):
        await http.client.delete(f"/v1/sessions/{each}")


async def test_an_import_is_repeated_by_its_key(http):
    session = await session_with_tokens(http)
    body = await exported(http, session)
    key = {"idempotency-key": "import-1"}
    first = await imported(http, body, "?ttl_s=60", key)
    before = await usage(http)
    second = await imported(http, body, "?ttl_s=60", key)
    assert (first.status, second.status, second["id"]) == (201, 201, first["id"])
    assert await usage(http) == before
    other = await imported(http, body, "?ttl_s=61", key)
    assert (other.status, other["code"]) == (422, "config")
    assert await usage(http) == before
    named = await imported(http, body, "?name=taken")
    taken = await imported(http, body, "?name=taken")
    assert (taken.status, taken["code"]) == (409, "name_taken")
    key = {"idempotency-key": "import-2"}
    own = await imported(http, body, "?name=mine", key)
    again = await imported(http, body, "?name=mine", key)
    assert (again.status, again["id"], again["name"]) == (201, own["id"], "mine")
    for query in ("?ttl_s=0", "?ttl_s=9e9"):
        assert (await imported(http, body, query)).status == 422
    for query in ("?ttl_s=x", "?ttl_s=nan", "?name=a&name=b", "?ttl_s"):
        assert (await imported(http, body, query)).status == 400
    for each in (session, first["id"], named["id"], own["id"]):
        await http.client.delete(f"/v1/sessions/{each}")


async def test_other_bodies_are_creates_as_before(http):
    created = await http.create(kv(3), **SMALL)
    assert created.status == 201
    query = await http.post("/v1/sessions?ttl_s=60", {}, **SMALL)
    check_problem(query.response, 400, "bad_query", "the body is no export")
    await http.client.delete(f"/v1/sessions/{created['id']}")


async def test_while_the_service_drains_sessions_are_exported_and_not_imported():
    async with http_sessions() as http:
        session = await session_with_tokens(http)
        body = await exported(http, session)
        before = await usage(http)
        http.client._transport.app.lifecycle.drain()  # type: ignore[attr-defined]
        refused = await imported(http, body)
        check_problem(refused.response, 503, "shutting_down", "")
        assert await usage(http) == before
        response = await http.client.get(f"/v1/sessions/{session}/export")
        assert response.headers["x-session-export"] == "possible"
        assert response.content == body
