"""HAProxy with deploy/haproxy/haproxy.cfg sends each request to the right one of two replicas."""

import socket

import httpx
import numpy as np
import pytest

from rope_client import Client, RetryPolicy, Session, SessionGone
from service.access.tenant import ANONYMOUS
from service.sessions.lifetime.ids import SessionIds
from tests.deploy.rolling.load import INPUTS, THETA, rotated
from tests.deploy.rolling.replicas import NAMES, SESSION_KEY, Haproxy, Replica
from tests.waiting import wait_until

NO_RETRY = RetryPolicy(max_attempts=1)
STALLED = (
    b"POST /v1/rotate HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    b"content-length: 9\r\n\r\n"
)
"""The header of a request; its body never comes."""
CONFIGURATION = {"heads": 2, "kv_heads": 1, "head_dim": 8, "max_tokens": 64}


def owner_of(session_id: str) -> str:
    return session_id.split(".")[1]


def tensors(num_tokens: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    q = rng.standard_normal((1, num_tokens, 2, 8), dtype=np.float32)
    k, v = rng.standard_normal((2, 1, num_tokens, 1, 8), dtype=np.float32)
    return q, k, v


def served(proxy: Haproxy, field: str = "stot") -> list[int]:
    """Return the number of requests of each replica: all so far, or (scur) those now."""
    rows = proxy.rows()
    return [int(rows["replicas", name][field]) for name in NAMES]


def new(before: list[int], after: list[int]) -> list[int]:
    return [b - a for a, b in zip(before, after, strict=True)]


@pytest.fixture
def client(proxy: Haproxy):
    with Client(proxy.url, retry=NO_RETRY) as client:
        yield client


def sessions_of_both(client: Client, replicas: list[Replica]) -> dict[str, Session]:
    """Return a session of each replica, as clients of HAProxy see it."""
    found = {}
    for replica in replicas:
        with Client(replica.url) as direct:
            session_id = direct.session(**CONFIGURATION).state.id
        found[replica.name] = client.open_session(session_id)
        assert owner_of(session_id) == replica.name
    return found


def test_requests_without_a_session_go_to_both(proxy, client):
    q, positions, expected = INPUTS[0]
    before = served(proxy)
    for _ in range(10):
        answer = client.rotate(q, positions=positions, rope={"theta": THETA})
        np.testing.assert_allclose(answer.q, expected, atol=1e-4)
    assert new(before, served(proxy)) == [5, 5], "without other requests they take turns"


def test_a_busy_replica_gets_fewer(proxy):
    """A request that lasts counts, and the next ones go to the other replica."""
    with socket.create_connection(("127.0.0.1", proxy.http_port)) as slow:
        slow.sendall(STALLED)
        # its replica has the header, and waits for the body
        wait_until(lambda: sorted(served(proxy, "scur")) == [0, 1])
        busy = served(proxy, "scur").index(1)
        before = served(proxy)
        with Client(proxy.url, retry=NO_RETRY) as client:
            for _ in range(6):
                client.version()
        assert new(before, served(proxy))[1 - busy] == 6


def test_a_stateless_request_ignores_the_header(proxy):
    """Otherwise clients could overload one replica."""
    before = served(proxy)
    for _ in range(6):
        httpx.get(f"{proxy.url}/version", headers={"x-session-id": "r1.rope-1.a.b.c"})
    assert new(before, served(proxy)) == [3, 3]


@pytest.fixture(scope="module")
def stalled(proxy: Haproxy):
    """Send the header of a request, and no body, early enough for the last test."""
    with socket.create_connection(("127.0.0.1", proxy.http_port)) as connection:
        connection.sendall(STALLED)
        yield connection


def test_a_replica_waits_for_the_rest_of_a_request(stalled, proxy):
    """The fixture starts the request here; the last test reads its answer."""
    wait_until(lambda: sum(served(proxy, "scur")) == 1)


def test_steps_go_to_the_owner_by_path_and_by_header(client, replicas):
    sessions = sessions_of_both(client, replicas)
    q, k, v = tensors()
    for _ in range(4):
        outs = [session.step(0, q, k, v).out for session in sessions.values()]
        np.testing.assert_array_equal(*outs)
    for session in sessions.values():  # /v1/step has no id in its path
        [result] = client.step_many([(session, q, k, v)])
        assert not isinstance(result, Exception), result
        assert session.inspect().length == (5,)


def test_raw_requests_without_the_header_reach_the_owner(proxy, client, replicas):
    for owner, session in sessions_of_both(client, replicas).items():
        for _ in range(3):
            answer = httpx.get(f"{proxy.url}/v1/sessions/{session.state.id}")
            assert answer.status_code == 200, owner


def test_streams_reach_the_owner(client, replicas):
    q, k, v = tensors()
    for session in sessions_of_both(client, replicas).values():
        with session.stream() as stream:
            first = stream.step(0, q, k, v).out
            second = stream.step(0, q, k, v).out
        assert first.shape == second.shape == q.shape
        assert session.inspect().length == (2,)


def test_the_wrong_replica_answers_421_with_the_name_of_the_owner(client, replicas):
    session = sessions_of_both(client, replicas)["rope-1"]
    foreign = httpx.get(f"{replicas[1].url}/v1/sessions/{session.state.id}")
    assert foreign.status_code == 421, "the service itself does so without HAProxy"
    assert foreign.headers["x-session-owner"] == "rope-1"


def test_an_owner_that_haproxy_does_not_know_gets_421_with_its_name(proxy):
    """Such as a replica that was removed: its ids are valid, and its sessions are lost."""
    session_id = SessionIds("rope-9", SESSION_KEY.encode()).new(ANONYMOUS)
    answer = httpx.post(f"{proxy.url}/v1/sessions/{session_id.text}/step", json={})
    assert (answer.status_code, answer.headers["x-session-owner"]) == (421, "rope-9")


@pytest.mark.parametrize(
    "session_id",
    ["r1.rope-1.a.b.c", "r1.rope-9.a.b.c", "nonsense", "r1..a.b.c", "r1.BACKEND.a.b.c"],
)
def test_a_forged_id_finds_no_session(proxy, session_id):
    answer = httpx.post(f"{proxy.url}/v1/sessions/{session_id}/step", json={})
    assert (answer.status_code, answer.json()["code"]) == (404, "no_session")


def test_a_large_body_passes_in_both_directions(client):
    q = np.random.default_rng(0).standard_normal((1, 4096, 16, 128), dtype=np.float32)  # 32 MiB
    answer = client.rotate(q, positions=np.arange(4096), rope={"theta": THETA})
    expected = rotated(q[:, ::512], np.arange(4096)[::512])
    np.testing.assert_allclose(answer.q[:, ::512], expected, atol=1e-3)


@pytest.mark.parametrize("path", ["/metrics", "/metrics?a=b", "/%6detrics", "/metric%73"])
def test_metrics_of_one_replica_are_not_served_as_those_of_all(proxy, path):
    with socket.create_connection(("127.0.0.1", proxy.http_port)) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        assert raw.recv(12) == b"HTTP/1.1 404"


def test_haproxy_has_metrics_of_its_own(proxy):
    text = httpx.get(f"{proxy.stats_url}/metrics").text
    assert 'haproxy_backend_active_servers{proxy="replicas"} 2' in text


def test_the_log_has_no_ids_of_sessions(proxy, client, replicas):
    """Ids are secrets. HAProxy logs failed requests, such as one with a lost client."""
    session_id = sessions_of_both(client, replicas)["rope-1"].state.id
    with socket.create_connection(("127.0.0.1", proxy.http_port)) as lost:
        path = f"/v1/sessions/{session_id}/fork".encode()
        lost.sendall(STALLED.replace(b"/v1/rotate", path))
        wait_until(lambda: sum(served(proxy, "scur")) > 0)
    wait_until(lambda: b"POST" in proxy.log.read_bytes())
    assert session_id.encode() not in proxy.log.read_bytes()


def test_a_deleted_session_is_gone_at_both_replicas(client, replicas):
    for session in sessions_of_both(client, replicas).values():
        session.delete()
        with pytest.raises(SessionGone) as caught:
            client.open_session(session.state.id)
        assert caught.value.reason == "deleted"


def test_the_service_ends_a_stalled_request_before_haproxy_does(stalled):
    answer = stalled.recv(4096)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"ROPE_MIN_BODY_RATE" in answer, "the answer says why"
