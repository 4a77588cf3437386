"""Services in processes of their own, and the clients that ask them over sockets."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import torch

from service.wire import Message, Parameters, safetensors_codec
from tests.conftest import Serve, Started
from tests.service.oip.clients.adapters import KINDS, Client

pytest.register_assert_rewrite("tests.service.oip.clients.expected")

PREFIX = f"rope-test-{os.getpid()}-"
"""Of the shared memory of these tests."""

STATUSES = {
    "400": "INVALID_ARGUMENT",
    "404": "NOT_FOUND",
    "413": "RESOURCE_EXHAUSTED",
    "501": "UNIMPLEMENTED",
    "503": "UNAVAILABLE",
}


@dataclass(frozen=True)
class Target:
    """Where a service listens."""

    http: str
    """As `host:port`."""

    grpc: str

    @classmethod
    def of_service(cls, started: Started) -> "Target":
        return cls(started.url.partition("//")[2], started.grpc_target)

    @property
    def url(self) -> str:
        return f"http://{self.http}"

    def of(self, kind: str) -> str:
        """Return the address for a kind of client."""
        return self.http if kind.startswith("http") else self.grpc

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of a metric that have these labels."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        found = 0.0
        for line in httpx.get(f"{self.url}/metrics").text.splitlines():
            sample, _, value = line.rpartition(" ")
            if sample.partition("{")[0] == name and all(each in sample for each in wanted):
                found += float(value)
        return found


@pytest.fixture(scope="session")
def target(server: Started) -> Target:
    """The service that all tests share."""
    return Target.of_service(server)


@pytest.fixture(scope="session")
def other(serve: Serve) -> Iterator[Target]:
    """A service of other settings: it shares memory, and takes up to 1 MiB."""
    settings = {"shared_memory_prefix": f"/{PREFIX}", "max_body_bytes": str(2**20)}
    with serve(**{f"ROPE_{name.upper()}": value for name, value in settings.items()}) as started:
        yield Target.of_service(started)


@pytest.fixture(scope="session")
def unused(target: Target) -> Iterator[tuple[Any, list[str], float]]:
    """A connection of gRPC that is opened early, its states as they come, and when it was ready.

    It pings every 10 s, as often as the libraries let it.
    """
    grpc = pytest.importorskip("tritonclient.grpc")
    often = grpc.KeepAliveOptions(10_000, 5_000, True, 0)
    states: list[str] = []
    with grpc.InferenceServerClient(target.grpc, keepalive_options=often) as client:
        assert client.is_server_live()
        client._channel.subscribe(lambda state: states.append(state.name))
        yield client, states, time.monotonic()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    pytest.importorskip("tritonclient")
    return request.param


@pytest.fixture
def connect(kind: str, unused: object) -> Iterator[Callable[..., Client]]:
    """Make clients of the kind, with options of one's own."""
    with contextlib.ExitStack() as stack:

        def connected(target: Target, **options: object) -> Client:
            client = Client(kind, target.of(kind), **options)
            stack.callback(client.close)
            return client

        yield connected


@pytest.fixture
def client(connect: Callable[..., Client], target: Target) -> Client:
    """One of tritonclient's four clients."""
    return connect(target)


@pytest.fixture
def refused(kind: str) -> Callable[[str], AbstractContextManager[list[str]]]:
    """A call is refused with a status of HTTP or the one of gRPC that it is; one line says why."""
    from tritonclient.utils import InferenceServerException

    @contextmanager
    def refused(status: str, *words: str) -> Iterator[None]:
        with pytest.raises(InferenceServerException) as failure:
            yield
        grpc = f"StatusCode.{STATUSES[status]}"
        told = failure.value
        assert told.status() == (status if kind.startswith("http") else grpc), told
        assert told.message()
        assert "\n" not in told.message()
        for each in words:
            assert each in told.message()

    return refused


@pytest.fixture
def busy(target: Target) -> Iterator[None]:
    """The service computes for some tenths of a second, and what comes meanwhile waits."""
    q = torch.zeros(1, 2000, 8, 64)
    body = b"".join(
        safetensors_codec.encode(Message({"q": q, "k": q, "v": q}, Parameters.of({"softcap": 5.0})))
    )
    headers = {"content-type": safetensors_codec.media_type}

    def ask(_: int) -> int:
        url = f"{target.url}/v1/attention"
        return httpx.post(url, content=body, headers=headers, timeout=60).status_code

    with ThreadPoolExecutor() as pool:
        statuses = pool.map(ask, range(2))
        abort_pending = time.monotonic() + 10
        while not target.metric("rope_queue_depth"):  # one is computed, and the other waits
            assert time.monotonic() < abort_pending
            time.sleep(0.01)
        yield
        assert [*statuses] == [200, 200]
