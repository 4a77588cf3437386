"""Parameters in the query of a target and in X-Rope-Params, over a socket."""

import json
from collections.abc import AsyncIterator
from urllib.parse import quote, urlencode

import pytest
import pytest_asyncio
import safetensors.torch
import torch

from tests.service.planned.requests import Answer, Client, post
from tests.service.planned.servers import Running, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

Q = torch.randn(1, 6, 4, 16, generator=torch.Generator().manual_seed(0))
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
MASKED = {"causal": False, "window": 3, "window_ahead": 1, "scale": 0.5}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def service() -> AsyncIterator[Running]:
    async with running() as service:
        yield service


def own_file(names: str, params: object = None) -> bytes:
    """Return a file as programs write it that do not know the service."""
    metadata = None if params is None else {"params": json.dumps(params)}
    return safetensors.torch.save({name: Q.clone() for name in names}, metadata)


async def ask(service: Running, target: str, params: object = None, **fields: str) -> Answer:
    """Return the answer to the last of three equal requests: only that one can have a plan."""
    names = "qkv" if "attention" in target else "q" if "rotate" in target else ""
    client = await Client.connect(service.address)
    request = post(target, own_file(names, params), **fields)
    answers = [await client.ask(request) for _ in range(3)]
    client.leave()
    assert len({answer.lasting for answer in answers}) == 1
    return answers[-1]


def problem(answer: Answer) -> tuple[int, str, str]:
    document = json.loads(answer.body)
    return answer.status, document["code"], document["detail"]


ALIKE = [
    ("/v1/rotate", "rope.theta=500000", {"rope": {"theta": 5e5}}),
    ("/v1/resolve", "rope=smollm3-3b&rope.layer=0", {"rope": {"preset": "smollm3-3b", "layer": 0}}),
    ("/v1/rotate", "rope=" + quote(json.dumps(YARN)), {"rope": YARN}),
    ("/v1/rotate", urlencode({f"rope.{n}": v for n, v in YARN.items()}), {"rope": YARN}),
    ("/v1/rotate", "rope.layout=interleaved&inverse=true", {"rope": {"layout": "interleaved"}}),
    ("/v1/rotate", 'rope.compat=5.23&rope.preset="x"', {"rope": {"compat": "5.23", "preset": "x"}}),
    ("/v1/attention", urlencode(MASKED).replace("False", "false"), MASKED),
    ("/v1/attention", "rope=null&out_dtype=float32", {"rope": None, "out_dtype": "float32"}),
    ("/v1/attention", "window=null&rotate=none", {"window": None, "rotate": "none"}),
    ("/v1/resolve", "rope=llama-3.1-8b", {"rope": "llama-3.1-8b"}),
    ("/v1/positions", "builder=grid_positions&arguments=%7B%22sizes%22:[2,3]%7D", None),
]


@pytest.mark.parametrize(("path", "query", "params"), ALIKE)
async def test_query_header_and_body_are_alike(service: Running, path, query, params):
    params = params or {"builder": "grid_positions", "arguments": {"sizes": [2, 3]}}
    params = params | ({"inverse": True} if "inverse" in query else {})
    in_body = await ask(service, path, params)
    num_planned = len(service.statuses)
    in_query = await ask(service, f"{path}?{query}")
    in_header = await ask(service, path, x_rope_params=json.dumps(params))
    in_all = await ask(service, f"{path}?{query}", params, x_rope_params=json.dumps(params))
    assert len(service.statuses) == num_planned, "a request with other parameters has a plan"
    assert in_body.status == (422 if '"x"' in query else 200)
    for answer in (in_query, in_header, in_all):
        assert (answer.status, answer.body) == (in_body.status, in_body.body)
    if path == "/v1/rotate" and in_body.status == 200:
        assert in_body.body != (await ask(service, path)).body


async def test_members_of_a_rope_from_several_places(service: Running):
    theta, factor, length = ({name: YARN[name]} for name in YARN)
    found = await ask(
        service,
        f"/v1/rotate?{urlencode({f'rope.{n}': v for n, v in length.items()})}",
        {"rope": theta},
        x_rope_params=json.dumps({"rope": factor}),
    )
    assert found.body == (await ask(service, "/v1/rotate", {"rope": YARN})).body


UNKNOWN = [
    (
        "theta=500000",
        "unknown parameter theta (did you mean rope.theta?); this route has",
    ),
    ("invers=true", "unknown parameter invers (did you mean inverse?); this route has"),
    ("positions=[1]", "unknown parameter positions (it is a tensor: send it in the body)"),
    ("rope.thta=1", "unknown parameter rope.thta (did you mean rope.theta?); this route has"),
    ("to.theta=1", "unknown parameter to.theta; this route has"),
    ("rope.=1", "unknown parameter rope."),
    ("=1", "unknown parameter ; this route has"),
]


@pytest.mark.parametrize(("query", "text"), UNKNOWN)
async def test_unknown_names(service: Running, query, text):
    status, code, detail = problem(await ask(service, f"/v1/rotate?{query}"))
    assert (status, code) == (422, "unknown")
    assert detail.startswith(text)


async def test_unknown_names_elsewhere(service: Running):
    for values in ({"theta": 5e5}, {"rope.theta": 5e5}):
        answer = await ask(service, "/v1/rotate", x_rope_params=json.dumps(values))
        assert problem(answer)[:2] == (422, "unknown")
    answer = await ask(service, "/v1/rotate?inverse=true", {"rope.theta": 5e5})
    assert problem(answer)[:2] == (422, "unknown")


CONFLICTS = [
    ("rope.theta=5e5", {"rope": {"theta": 1e4}}, "10000.0 in the body and 500000.0 in the query"),
    ("rope=llama-3.1-8b", {"rope": "gemma-2-9b"}, "rope.preset must be given once"),
    ("inverse=1", {"inverse": True}, "true in the body and 1 in the query"),
    ("rope=%7B%22theta%22:2%7D&rope.theta=3", None, "2 in the query and 3 in the query"),
]


@pytest.mark.parametrize(("query", "params", "text"), CONFLICTS)
async def test_values_that_differ(service: Running, query, params, text):
    status, code, detail = problem(await ask(service, f"/v1/rotate?{query}", params))
    assert (status, code) == (422, "config")
    assert text in detail


async def test_no_rope_and_a_member_of_it(service: Running):
    answer = await ask(service, "/v1/attention?rope=null&rope.theta=3")
    assert problem(answer)[1] == "config"
    assert "rope must be an object or the name of a preset" in problem(answer)[2]


@pytest.mark.parametrize("rope", [{"theta": 5e5}, "llama-3.1-8b", {}])
async def test_no_rope_and_a_rope_in_the_body(service: Running, rope):
    answer = await ask(service, "/v1/attention?rope=null", {"rope": rope})
    expected = "rope must be null in all places, or in none, got null in the query"
    assert problem(answer)[2].startswith(expected)


async def test_deep_values_beside_others(service: Running):
    deep = "[" * 1000 + "]" * 1000
    for path, fields, expected in (
        ("/v1/rotate", {"x_rope_params": deep}, (400, "bad_header")),
        ("/v1/rotate", {"x_rope_params": f'{{"inverse": {deep}}}'}, (400, "bad_message")),
        (f"/v1/rotate?inverse={deep}", {}, (400, "bad_message")),
    ):
        answer = await ask(service, path, {"inverse": True}, **fields)
        assert problem(answer)[:2] == expected


MALFORMED = ["a", "inverse=%zz", "inverse=%ff", "inverse=true&inverse=true", "inverse=true&", "&"]


@pytest.mark.parametrize("query", MALFORMED)
async def test_malformed_queries(service: Running, query):
    assert problem(await ask(service, f"/v1/rotate?{query}"))[:2] == (400, "bad_query")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '{"inverse": NaN}', '{"a": "\xff"}'])
async def test_malformed_headers(service: Running, text):
    answer = await ask(service, "/v1/rotate", x_rope_params=text)
    status, code, _ = problem(answer)
    assert (status, code) == ((422, "unknown") if "\xff" in text else (400, "bad_header"))


async def test_other_bad_values(service: Running):
    deep = "[" * 300 + "]" * 300
    cases = {
        "inverse=yes": (422, "config"),
        "rope=%7B": (422, "config"),
        "rope.theta=fast": (422, "config"),
        f"rope.mrope_section={deep}": (400, "bad_message"),
        f"rope={'x' * 8192}": (414, "target_too_long"),
    }
    for query, expected in cases.items():
        client = await Client.connect(service.address)
        answer = await client.ask(post(f"/v1/rotate?{query}", own_file("q")))
        assert problem(answer)[:2] == expected, query
        client.leave()
    answer = await ask(service, "/v1/rotate?rope.theta=0")
    assert "rope.theta must be finite" in problem(answer)[2]


async def test_the_header_twice_is_refused(service: Running):
    request = post("/v1/rotate", own_file("q"), x_rope_params='{"inverse": true}')
    line = b'x-rope-params: {"inverse": true}\r\n'
    client = await Client.connect(service.address)
    answer = await client.ask(request.replace(line, line + line))
    assert problem(answer)[:2] == (400, "bad_header")
    client.leave()


async def test_routes_without_a_query(service: Running):
    client = await Client.connect(service.address)
    for path in ("/v1/presets", "/v1/variants"):
        request = f"GET {path}?theta=5 HTTP/1.1\r\nhost: x\r\n\r\n"
        answer = await client.ask(request.encode())
        assert problem(answer) == (
            *(422, "unknown"),
            "unknown parameter theta; this route has none",
        )
    for target, fields in (("?theta=5", {}), ("", {"x_rope_params": "{}"})):
        answer = await client.ask(post(f"/v2/models/rope/infer{target}", b"{}", **fields))
        assert answer.status == 400
        assert b"parameters are in the JSON" in answer.body
    client.leave()
