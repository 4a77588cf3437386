"""No body of a session route gets a 500, and the memory of refused operations comes back."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.sessions.paths import OPERATIONS
from tests.service.fuzz_strategies import ANYTHING, JUNK, NUMBERS, ROPES, tensors
from tests.service.sessions.http_sessions import SMALL, http_sessions

HEADS = [[[[1.0] * 8] * 4]]
KEYS = [[[[1.0] * 8] * 2]]
GOOD: dict[str, dict[str, Any]] = {
    "create": SMALL,
    "step": {"q": HEADS, "k": KEYS, "v": KEYS, "layer": 0},
    "append": {"k": KEYS, "v": KEYS, "layer": 0},
    "attend": {"q": HEADS, "layer": 0},
    "truncate": {"drop": 0},
    "select_tail": {"n": 1, "kept": [0]},
    "evict": {"sinks": 1, "recent": 4},
    "shift": {"start": 0, "stop": 1, "delta": 1},
    "rebase": {"to": {"theta": 100.0}},
    "reorder": {"rows": [0]},
    "attach": {"source": "source", "start": 0, "stop": 1},
    "fork": {"count": 1},
    "change": {"ttl_s": 60},
    "step_many": {"q": HEADS[0], "k": KEYS[0], "v": KEYS[0], "cu_seqlens": [0, 1]},
}
NAMES = sorted(
    {name for body in GOOD.values() for name in body}
    | {"rows", "layers", "positions", "q_index", "tail_mask", "expected_length", "op_id"}
    | {"expected_generation", "groups", "preset", "config", "dtype", "kv_dtype", "batch", "labels"}
    | {"max_tokens", "sinks", "rollback", "attention", "name", "frozen", "pinned", "out_dtype"}
    | {"return_lse", "backend", "strict", "length", "position", "sessions", "expected_lengths"}
)
CHANGES = st.dictionaries(
    st.sampled_from(NAMES), JUNK | ANYTHING | NUMBERS | ROPES | tensors(), max_size=3
)
FEW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def service() -> Iterator[Any]:
    with asyncio.Runner() as runner:
        http = http_sessions(kv_bytes=2**24)
        sessions = runner.run(http.__aenter__())
        source = runner.run(sessions.create(**SMALL, name="source"))
        append = f"/v1/sessions/{source['id']}/append"
        runner.run(sessions.client.post(append, json=GOOD["append"]))

        def send(method: str, path: str, body: object) -> httpx.Response:
            content = json.dumps(body).encode()
            headers = {"content-type": "application/json"}
            request = sessions.client.request(method, path, content=content, headers=headers)
            return runner.run(request)

        yield send
        runner.run(http.__aexit__(None, None, None))


def path_of(session: str, operation: str) -> tuple[str, str]:
    match operation:
        case "create":
            return "POST", "/v1/sessions"
        case "step_many":
            return "POST", "/v1/step"
        case "change":
            return "PATCH", f"/v1/sessions/{session}"
        case _:
            return "POST", f"/v1/sessions/{session}/{operation}"


def new_session(service: Any) -> str:
    session = service("POST", "/v1/sessions", SMALL).json()["id"]
    service("POST", f"/v1/sessions/{session}/append", GOOD["append"])
    return session


@pytest.mark.parametrize("operation", GOOD)
def test_a_good_body_is_answered(service, operation):
    session = new_session(service)
    body = GOOD[operation] | ({"sessions": [session]} if operation == "step_many" else {})
    answer = service(*path_of(session, operation), body)
    assert answer.status_code in (200, 201), answer.text
    service("DELETE", f"/v1/sessions/{session}", {})


@pytest.mark.parametrize("operation", GOOD)
@FEW
@given(changes=CHANGES)
def test_a_broken_body_is_never_a_fault_of_the_service(service, operation, changes):
    session = new_session(service)
    body = GOOD[operation] | changes
    answer = service(*path_of(session, operation), body)
    assert answer.status_code not in (500, 504), (operation, changes, answer.text)
    if answer.status_code == 201:
        for each in [answer.json().get("id"), *answer.json().get("ids", [])]:
            if each:
                service("DELETE", f"/v1/sessions/{each}", {})
    service("DELETE", f"/v1/sessions/{session}", {})


@FEW
@given(body=ANYTHING, operation=st.sampled_from([*OPERATIONS, "create", "step_many"]))
def test_any_body(service, body, operation):
    session = new_session(service)
    answer = service(*path_of(session, operation), body)
    assert answer.status_code < 500, answer.text
    service("DELETE", f"/v1/sessions/{session}", {})
