"""Quotas and memory: what does not fit is refused with what is wanted, and nothing has changed."""

import pytest

from tests.kvcache_oracle.remote import CONFIG, Remote, Unchanged, tokens
from tests.waiting import wait_until

BYTES_OF_A_TOKEN = 2 * 2 * 2 * 16 * 4
"""Of CONFIG: layers, k and v, heads, width, float32."""
ARENA = 2**26


def test_too_many_sessions(remote: Remote, other: Remote) -> None:
    sessions = [remote.create() for _ in range(8)]
    for reply in (
        remote.ask("POST", "/v1/sessions", CONFIG),
        remote.call(sessions[0], "fork"),
        remote.ask("POST", "/v1/sessions", {"fork": sessions[0]}),
    ):
        assert (reply.status, reply.code) == (429, "quota"), reply
        assert int(reply.headers["retry-after"]) >= 0
    assert remote.call(sessions[0], "fork", {"count": 2}).status == 429
    assert other.create()
    assert len(remote.ask("GET", "/v1/sessions").params["sessions"]) == 8
    assert remote.delete(sessions[0]) == 204
    assert remote.create()


def test_a_reservation_that_never_fits(remote: Remote) -> None:
    tokens_of_all = ARENA // BYTES_OF_A_TOKEN
    reply = remote.ask("POST", "/v1/sessions", CONFIG | {"max_tokens": 2 * tokens_of_all})
    assert (reply.status, reply.code) == (413, "session_too_long")
    assert remote.ask("GET", "/v1/sessions").params["sessions"] == []


@pytest.mark.parametrize("max_tokens", [0, -1])
def test_max_tokens_below_one(remote: Remote, max_tokens: int) -> None:
    reply = remote.ask("POST", "/v1/sessions", CONFIG | {"max_tokens": max_tokens})
    assert (reply.status, reply.code) == (422, "config")


def test_a_reservation_that_does_not_fit_now(remote: Remote) -> None:
    half = ARENA // BYTES_OF_A_TOKEN * 6 // 10
    first = remote.create(max_tokens=half)
    reserved = remote.document(first)["reserved_bytes"]
    assert half * BYTES_OF_A_TOKEN <= reserved <= (half + 4) * BYTES_OF_A_TOKEN
    for reply in (
        remote.ask("POST", "/v1/sessions", CONFIG | {"max_tokens": half}),
        remote.call(first, "fork"),
    ):
        assert (reply.status, reply.code) == (503, "kv_memory"), reply
        assert reply.params["wanted_bytes"] == reserved
        assert 0 <= reply.params["free_bytes"] <= ARENA - reserved
        assert int(reply.headers["retry-after"]) >= 0
    with Unchanged(remote, remote.filled()):
        reply = remote.call(first, "reorder", {"rows": [0, 0]})
        assert (reply.status, reply.code) == (507, "kv_memory"), reply
    assert remote.document(first)["batch"] == 1
    assert remote.document(first)["generation"] == 0
    assert remote.delete(first) == 204
    assert remote.create(max_tokens=half)


def test_a_session_that_cannot_grow(remote: Remote) -> None:
    taken = ARENA // BYTES_OF_A_TOKEN * 9 // 10
    session = remote.filled(max_tokens=None)
    assert remote.create(max_tokens=taken)
    with Unchanged(remote, session):
        reply = remote.call(session, "append", {"layer": 0}, tokens(8000, names="kv"))
        assert (reply.status, reply.code) == (507, "kv_memory"), reply
        assert reply.params["wanted_bytes"] > 0
        assert reply.params["free_bytes"] >= 0
        assert "retry-after" not in reply.headers


def test_evictable_sessions_make_room(remote: Remote, other: Remote) -> None:
    most = ARENA // BYTES_OF_A_TOKEN * 8 // 10
    first = remote.create(max_tokens=most, evictable=True)
    kept = other.create(max_tokens=8)
    second = remote.create(max_tokens=most)
    reply = remote.ask("GET", f"/v1/sessions/{first}")
    assert (reply.status, reply.params.get("reason")) == (410, "evicted")
    assert other.document(kept)["length"] == [0]
    reply = other.ask("POST", "/v1/sessions", CONFIG | {"max_tokens": most})
    assert (reply.status, reply.code) == (503, "kv_memory")
    assert remote.document(second)["length"] == [0]


def test_everything_comes_back(remote: Remote) -> None:
    """Sessions of many kinds come and go, and then the largest fits again."""
    largest = ARENA // BYTES_OF_A_TOKEN * 9 // 10
    for round_ in range(3):
        session = remote.filled(9 + round_, max_tokens=64)
        forks = remote.call(session, "fork", {"count": 4}).params["ids"]
        for i, fork in enumerate(forks):
            assert remote.call(fork, "evict", {"start": i, "stop": i + 3}).status == 200
            for layer in range(2):
                reply = remote.call(fork, "append", {"layer": layer}, tokens(5, names="kv"))
                assert reply.status == 200
            assert remote.call(fork, "reorder", {"rows": [1, 1, 0]}).status == 200
        for each in [session, *forks]:
            assert remote.delete(each) == 204
    session = remote.create(max_tokens=largest)
    assert remote.document(session)["bytes"]["own"] == 0


def test_abandoned_sessions_give_their_memory_back(remote: Remote) -> None:
    """Nobody asks for them again: the sweep ends them, and the largest session fits."""
    eighth = ARENA // BYTES_OF_A_TOKEN // 10
    for i in range(8):
        remote.create(max_tokens=eighth, ttl_s=1, name=f"abandoned-{i}")
    largest = CONFIG | {"max_tokens": 9 * eighth}
    wait_until(lambda: remote.ask("POST", "/v1/sessions", largest).status == 201, interval_s=0.2)
    assert len(remote.ask("GET", "/v1/sessions").params["sessions"]) == 1


def test_a_deadline_tells_whether_the_length_moved(remote: Remote) -> None:
    session = remote.create(batch=1, max_tokens=None)
    length, seen = 0, set()
    for timeout_ms in (1, 2, 3, 5, 8, 13, 21, 1000):
        given = tokens(200, 1, seed=timeout_ms)
        guard = {"layer": 0, "expected_length": length, "expected_generation": 0}
        reply = remote.call(session, "step", guard, given, x_request_timeout_ms=str(timeout_ms))
        reported = remote.document(session)["lengths"][0][0]
        seen.add(reply.status)
        if reply.status == 504:
            committed = reply.params["committed"]
            assert committed in (True, False, "unknown")
            if committed != "unknown":
                assert reported == length + 200 * committed
            reply = remote.call(session, "step", guard, given)  # a repeat, or the first
        assert reply.status == 200, reply
        length += 200
        assert reply.params["length"] == [length]
    assert 200 in seen
