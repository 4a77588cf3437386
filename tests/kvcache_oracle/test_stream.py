"""The WebSocket of a session: order, guards, failures that end nothing, refused handshakes."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.kvcache_oracle.messages import read_safetensors, write_safetensors
from tests.kvcache_oracle.remote import Remote, Unchanged, tokens


def opened(url: str, path: str, tenant: str = "a", **options: Any) -> ClientConnection:
    return connect(
        url.replace("http", "ws", 1) + path,
        subprotocols=["rope.session.v1"],
        additional_headers={"authorization": f"Bearer {tenant * 20}"},
        compression=None,
        max_size=None,
        **options,
    )


def frame(
    op: str, seq: int, tensors: dict[str, torch.Tensor] | None = None, **params: Any
) -> bytes:
    return write_safetensors({"op": op, "seq": seq} | params, tensors or {})


def answer(stream: ClientConnection) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    content = stream.recv(timeout=30)
    if isinstance(content, str):
        return json.loads(content), {}
    return read_safetensors(content)


@pytest.fixture
def session(remote: Remote) -> str:
    return remote.filled(5, batch=1)


@pytest.fixture
def stream(two_tenants: str, session: str) -> Iterator[ClientConnection]:
    with opened(two_tenants, f"/v1/sessions/{session}/stream") as stream:
        assert stream.subprotocol == "rope.session.v1"
        yield stream


def test_a_stream_and_http_give_equal_bits(
    remote: Remote, session: str, stream: ClientConnection
) -> None:
    twin = remote.call(session, "fork").params["ids"][0]
    guard = {"layer": 0, "expected_length": 5, "return_lse": True}
    stream.send(frame("step", 7, tokens(1, 1), **guard))
    params, tensors = answer(stream)
    expected = remote.call(twin, "step", guard, tokens(1, 1))
    assert (params["seq"], params["op"]) == (7, "step")
    assert (params["length"], params["generation"]) == ([6], 0)
    assert torch.equal(tensors["out"], expected.tensors["out"])
    assert torch.equal(tensors["lse"], expected.tensors["lse"])


def test_answers_come_in_the_order_of_requests(
    remote: Remote, session: str, stream: ClientConnection
) -> None:
    """More than are answered at a time, sent at once; one of them fails, those behind it too."""
    remote.call(session, "truncate", {"length": 0})
    for i in range(12):
        stream.send(
            frame("append", i, tokens(1, 1, seed=i, names="kv"), layer=0, expected_length=i)
        )
        stream.send(frame("attend", 100 + i, {"q": tokens(1, 1)["q"]}, layer=0))
    seen = [answer(stream)[0] for _ in range(24)]
    assert [each["seq"] for each in seen] == [n for i in range(12) for n in (i, 100 + i)]
    assert [each["length"] for each in seen[::2]] == [[i + 1] for i in range(12)]


@pytest.mark.parametrize("op", ["append", "step", "truncate"])
def test_a_guard_is_mandatory(
    remote: Remote, session: str, stream: ClientConnection, op: str
) -> None:
    given = {"append": tokens(1, 1, names="kv"), "step": tokens(1, 1), "truncate": {}}[op]
    params = {"length": 3} if op == "truncate" else {"layer": 0}
    with Unchanged(remote, session):
        stream.send(frame(op, 1, given, **params))
        problem, _ = answer(stream)
        assert (problem["status"], problem["code"], problem["seq"]) == (422, "config", 1)


def test_a_failure_ends_no_stream(remote: Remote, session: str, stream: ClientConnection) -> None:
    with Unchanged(remote, session):
        stream.send(frame("step", 1, tokens(1, 1), layer=0, expected_length=4))
        stream.send(b"not safetensors")
        stream.send(frame("nothing", 3))
        stream.send(frame("attend", 4, {"q": tokens(1, 1)["q"]}, layer=0, softcap=1.0))
        stream.send(write_safetensors({"op": "attend"}, {}))
        problems = [answer(stream)[0] for _ in range(5)]
        reported = [(each["status"], each.get("code"), each["seq"]) for each in problems]
        assert reported[0] == (409, "session_conflict", 1)
        assert problems[0]["length"] == [5]
        assert reported[1] == (400, "bad_message", None)
        assert (reported[2][0] // 100, reported[2][2]) == (4, 3)
        assert reported[3] == (422, "unknown", 4)
        assert reported[4][0] in (400, 422)
    stream.send(frame("attend", 9, {"q": tokens(1, 1)["q"]}, layer=0))
    assert answer(stream)[0]["seq"] == 9


def test_a_text_frame_closes_the_stream(session: str, stream: ClientConnection) -> None:
    stream.send("{}")
    with pytest.raises(ConnectionClosed):
        stream.recv(timeout=30)
    assert stream.close_code == 1003


def test_one_stream_for_all_sessions(
    two_tenants: str, remote: Remote, other: Remote, session: str
) -> None:
    foreign = other.filled(5, batch=1)
    with opened(two_tenants, "/v1/stream") as stream:
        q = {"q": tokens(1, 1)["q"]}
        stream.send(frame("attend", 1, q, layer=0, session=session))
        stream.send(frame("attend", 2, q, layer=0, session=foreign))
        stream.send(frame("attend", 3, q, layer=0))
        reported = [answer(stream)[0] for _ in range(3)]
        assert reported[0]["seq"] == 1
        assert (reported[1]["status"], reported[1]["code"]) == (404, "no_session")
        assert reported[2]["status"] in (400, 422)
        remote.delete(session)
        stream.send(frame("attend", 4, q, layer=0, session=session))
        problem = answer(stream)[0]
        assert (problem["status"], problem["reason"]) == (410, "deleted")


def test_refused_handshakes(two_tenants: str, remote: Remote, session: str) -> None:
    gone = remote.create()
    remote.delete(gone)
    for path, options, status in (
        ("/v1/sessions/r1.0.nobody/stream", {}, 404),
        (f"/v1/sessions/{gone}/stream", {}, 410),
        (f"/v1/sessions/{session}/stream", {"tenant": "b"}, 404),
        (f"/v1/sessions/{session}/stream", {"tenant": "c"}, 401),
        (f"/v1/sessions/{session}/stream", {"origin": "https://elsewhere.example"}, 403),
    ):
        with pytest.raises(InvalidStatus) as caught:
            opened(two_tenants, path, **options).__enter__()
        assert caught.value.response.status_code == status, (path, options)


def test_a_session_may_end_with_its_stream(two_tenants: str, remote: Remote) -> None:
    from tests.waiting import wait_until

    kept, ended = remote.filled(5, batch=1), remote.filled(5, batch=1)
    with opened(two_tenants, f"/v1/sessions/{kept}/stream"):
        pass
    with opened(two_tenants, f"/v1/sessions/{ended}/stream?end_on_close=true"):
        pass
    wait_until(lambda: remote.ask("GET", f"/v1/sessions/{ended}").status == 410)
    assert remote.document(kept)["length"] == [5]


def test_a_client_that_dies_loses_nothing_that_was_done(
    two_tenants: str, remote: Remote, session: str
) -> None:
    """A step is sent and its socket cut; the step is repeated, and done once."""
    guard = {"layer": 0, "expected_length": 5, "expected_generation": 0}
    with opened(two_tenants, f"/v1/sessions/{session}/stream") as stream:
        stream.send(frame("step", 1, tokens(1, 1), **guard))
        stream.socket.shutdown(socket.SHUT_RDWR)
    reply = remote.call(session, "step", guard, tokens(1, 1))
    assert (reply.status, reply.params["length"]) == (200, [6])
    assert remote.document(session)["lengths"] == [[6], [5]]
