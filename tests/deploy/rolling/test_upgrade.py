"""Upgrade and rollback of two replicas behind HAProxy, under 200 requests a second.

The load is sent by the default `rope_client`, and a tenth of it over gRPC without any retry. The
tests run in order: the last one leaves a replica stopped.
"""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest

from rope_client import Client, RetryPolicy, SessionGone
from service import __version__
from tests.conftest import ROOT
from tests.deploy.rolling.load import Load
from tests.deploy.rolling.replicas import CONFIG, Haproxy, Replica, haproxy, second_version
from tests.deploy.rolling.test_routing import owner_of, sessions_of_both, tensors

NEW = "0.2.0"


@pytest.fixture(scope="module")
def new_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return second_version(tmp_path_factory.mktemp("new"), NEW)


def with_grpc(proxy: Haproxy) -> Load:
    return Load(proxy.url, f"127.0.0.1:{proxy.grpc_port}")


def versions(replicas: list[Replica]) -> list[str]:
    return [httpx.get(f"{replica.url}/version").json()["version"] for replica in replicas]


def show(capsys: pytest.CaptureFixture[str], title: str, load: Load, proxy: Haproxy) -> None:
    with capsys.disabled():
        print(f"\n{title}\n{load}\nHAProxy: {proxy.error_counts()}")  # noqa: T201


def restart(replica: Replica, proxy: Haproxy, code: Path) -> None:
    """Replace the process of a replica, as `docker compose up` does, and wait for HAProxy."""
    replica.stop()
    replica.start(code)
    proxy.wait_for("UP", "UP")


def restart_with_sessions(replicas: list[Replica], proxy: Haproxy, code: Path) -> None:
    """Replace the process of rope-1, and use sessions of both replicas meanwhile."""
    q, k, v = tensors()
    with ExitStack() as stack:
        client = stack.enter_context(Client(proxy.url, retry=RetryPolicy(max_attempts=1)))
        patient = stack.enter_context(Client(proxy.url))
        sessions = sessions_of_both(client, replicas)
        ending, staying = sessions["rope-1"], sessions["rope-2"]
        path = f"{proxy.url}/v1/sessions/{ending.state.id}"
        stream = stack.enter_context(ending.stream())
        stream.step(0, q, k, v)

        replicas[0].terminate()
        proxy.wait_for("DOWN", "UP")
        assert httpx.get(path).headers["x-session-export"] == "possible", (
            "a draining replica answers"
        )
        out = stream.step(0, q, k, v).out
        export = httpx.get(f"{path}/export").raise_for_status().content
        headers = {"content-type": "application/x-safetensors"}
        moved = httpx.post(f"{proxy.url}/v1/sessions", content=export, headers=headers)
        assert owner_of(moved.json()["id"]) == "rope-2"

        replicas[0].wait_for_exit()
        answer = httpx.get(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "no_replica")
        assert answer.headers["retry-after"] == "1", "the client repeats it later"
        staying.step(0, q, k, v)
        with patient.open_session(moved.json()["id"]) as session:
            np.testing.assert_array_equal(session.attend(0, q).out, out)

        replicas[0].start(code)
        with pytest.raises(SessionGone) as caught:  # after some 503
            patient.open_session(ending.state.id)
        assert caught.value.reason == "restarted"
        with pytest.raises(SessionGone):
            stream.step(0, q, k, v)
        assert staying.inspect().length == (1,)
        proxy.wait_for("UP", "UP")


@pytest.fixture
def late_proxy(replicas: list[Replica], tmp_path: Path) -> Iterator[Haproxy]:
    """A second HAProxy, which checks once a minute and so misses a drain."""
    config = tmp_path / "haproxy.cfg"
    text = CONFIG.read_text()
    config.write_text(text.replace("inter 1s fastinter 500ms", "inter 60s"))
    assert config.read_text() != text
    with haproxy(replicas, tmp_path / "log", config) as started:
        yield started


def test_upgrade_and_rollback_lose_no_request(proxy, late_proxy, replicas, new_code, capsys):
    async def roll() -> tuple[Load, Load]:
        async with with_grpc(proxy) as load, Load(late_proxy.url, rate=20) as late:
            await load.answers(50)
            await asyncio.to_thread(restart_with_sessions, replicas, proxy, new_code)
            await asyncio.to_thread(restart, replicas[1], proxy, new_code)
            assert await asyncio.to_thread(versions, replicas) == [NEW, NEW]
            await load.answers(50)
            for replica in replicas:
                await asyncio.to_thread(restart, replica, proxy, ROOT)
            assert await asyncio.to_thread(versions, replicas) == [__version__] * 2
            await load.answers(50)
        return load, late

    load, late = asyncio.run(roll())
    show(capsys, f"{__version__} -> {NEW} -> {__version__}, each replica in turn", load, proxy)
    show(capsys, "the same through a HAProxy that looks once a minute", late, late_proxy)
    assert load.outcomes.keys() == {"rotate right", "infer right"}
    assert load.num_repeated == 0
    # Nothing was sent to a closed port. These counts come from the session of the replica that was
    # away: one request with three attempts, and the stream that ended.
    assert proxy.error_counts() == {"no connection": 1, "broken": 1, "repeated": 3, "moved": 0}
    # the counters do show a drain that HAProxy misses, even though the other replica answers
    assert late_proxy.error_counts()["moved"] > 0
    assert late.outcomes.keys() == {"rotate right"}


def test_a_reload_of_haproxy_and_a_killed_replica_lose_no_request(proxy, replicas, capsys):
    async def kill() -> Load:
        async with Load(proxy.url) as load:
            await load.answers(50)
            await asyncio.to_thread(proxy.reload)
            await load.answers(50)
            replicas[0].kill()
            await asyncio.to_thread(proxy.wait_for, "DOWN", "UP")
            await load.answers(50)
        return load

    load = asyncio.run(kill())
    show(capsys, "HAProxy reloaded, then rope-1 killed", load, proxy)
    assert load.outcomes.keys() == {"rotate right"}
