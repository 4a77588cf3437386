"""The wire is byte-compatible: recorded requests get the recorded answers.

Requests are sent over sockets to a service in a process of its own, so that nothing here depends on
the inside of the service. `tests/service/recorded/compare.py` says what may differ.
"""

import copy
import gzip
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import Serve, Started
from tests.service.recorded.catalogue import all_cases
from tests.service.recorded.compare import Differs, compare, compare_floats
from tests.service.recorded.exchange import SETTINGS, decode, encode, sending
from tests.service.recorded.record import ANSWERS, METRICS, OPENAPI
from tests.service.recorded.surface import shape_of_metrics, shape_of_openapi

CASES: dict[str, dict[str, Any]] = {
    case["name"]: case
    for case in map(json.loads, gzip.decompress(ANSWERS.read_bytes()).decode().splitlines())
}


@pytest.fixture(scope="module")
def service(serve: Serve) -> Iterator[Started]:
    with serve(**SETTINGS) as started:
        yield started


def replay(service: Started, case: dict[str, Any]) -> None:
    with sending(service) as (sender, region):
        for exchange in case["exchanges"]:
            answer = sender.send(exchange)
            compare(answer, exchange["answer"], case, exchange.get("method", ""))
        compare_floats(region.read_bytes(), decode(case["region"]))


@pytest.mark.parametrize("name", CASES)
def test_a_recorded_request_gets_the_recorded_answer(service: Started, name: str):
    replay(service, CASES[name])


def test_enough_is_recorded():
    exchanges = [exchange for case in CASES.values() for exchange in case["exchanges"]]
    assert len(exchanges) >= 200
    assert len([item for item in exchanges if "method" in item]) >= 50, "of gRPC"
    codes = {item["answer"].get("code") for item in exchanges}
    assert codes >= {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED"}
    statuses = {
        response["status"].split(" ")[1]
        for item in exchanges
        for response in item["answer"].get("responses", ())
    }
    assert statuses >= {"200", "400", "404", "405", "406", "413", "415", "422", "501", "503", "504"}


def test_all_requests_of_the_catalogue_are_recorded():
    recorded = copy.deepcopy([*CASES.values()])
    for case in recorded:
        del case["region"]
        for exchange in case["exchanges"]:
            del exchange["answer"]
    assert [json.loads(json.dumps(case)) for case in all_cases()] == recorded


def test_operations_and_schemas_of_the_description(service: Started):
    """Schemas may be added: parts of others that have got a name."""
    shape = shape_of_openapi(httpx.get(f"{service.url}/openapi.json").json())
    recorded = json.loads(OPENAPI.read_text())
    assert shape | {"schemas": {}} == recorded | {"schemas": {}}
    assert shape["schemas"] | recorded["schemas"] == shape["schemas"]


def test_names_types_and_labels_of_metrics(service: Started):
    for name in ("rotate lists", "bad rotate theta", "infer rope plain", "grpc rope raw"):
        replay(service, CASES[name])
    shape = shape_of_metrics(httpx.get(f"{service.url}/metrics").text)
    assert shape == json.loads(METRICS.read_text())


EVERY_KIND = (
    "rotate lists",
    "rotate bfloat16 base64",
    "rotate float16 safetensors",
    "resolve config",
    "infer binary float32 answer binary",
    "infer gzip answer",
    "get rope/config",
    "bad rotate theta",
    "grpc rope raw",
    "grpc bad theta",
    "stream errors",
)


@pytest.mark.parametrize("name", EVERY_KIND)
def test_a_changed_byte_is_seen(name: str):
    """The comparison itself: whichever part of an answer changes, it fails."""
    case = CASES[name]
    (exchange,) = case["exchanges"]
    expected, method = exchange["answer"], exchange.get("method", "")
    compare(copy.deepcopy(expected), expected, case, method)
    count = 0
    for changed in mutations(expected):
        count += 1
        with pytest.raises(Differs):
            compare(changed, expected, case, method)
    assert count >= 3


def mutations(answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield answers that differ from one in a byte that clients rely on."""
    for at, response in enumerate(answer.get("responses", ())):
        for key, value in (
            ("status", response["status"].replace("HTTP/1.1", "HTTP/1.0")),
            ("headers", response["headers"][1:]),
            ("headers", [*response["headers"], ["x-more", "1"]]),
        ):
            changed = copy.deepcopy(answer)
            changed["responses"][at][key] = value
            yield changed
        body = decode(response["body"])
        if ["content-encoding", "gzip"] in response["headers"]:
            plain = gzip.decompress(body)
            bodies = [gzip.compress(plain.replace(b'"name"', b'"Name"'))]
        elif body.startswith(b"{"):
            bodies = [body.replace(b'":', b'_":', 1), body[:-1] + b',"more":1}']
            if b'"data":[' in body:
                first = re.search(rb'"data":\[([^,]+)', body)
                moved = b'"data":[%.7g' % (float(first[1]) * (1 + 1e-5))
                bodies.append(body.replace(first[0], moved, 1))
        else:
            bodies = [body[:-1] + bytes([body[-1] ^ 0x40]), body[:9] + b"_" + body[10:]]
        for mutated in bodies:
            changed = copy.deepcopy(answer)
            changed["responses"][at]["body"] = encode(mutated)
            yield changed
    if "code" in answer:
        yield {**answer, "code": "UNKNOWN"}
        yield {**answer, "trailing": []}
        yield {**answer, "messages": [*answer["messages"], "x"]}
        for at, message in enumerate(answer["messages"]):
            data = decode(message)
            changed = copy.deepcopy(answer)
            last = bytes([data[-1] ^ 0x40])
            if b"error" not in data and b"\n" in data[:1]:
                changed["messages"][at] = encode(data[:-1] + last)
                yield changed
