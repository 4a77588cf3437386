"""Services in other processes, and clients that send requests to them over sockets."""

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
from tests.waiting import wait_until

pytest.register_assert_rewrite("tests.service.oip.clients.expected")

PREFIX = f"rope-test-{os.getpid()}-"
"""Prefix of the names of shared memory objects of these tests."""

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
        pairs = [f'{label}="{value}"' for label, value in labels.items()]
        total = 0.0
        for line in httpx.get(f"{self.url}/metrics").text.splitlines():
            sample, _, value = line.rpartition(" ")
            if sample.partition("{")[0] == name and all(pair in sample for pair in pairs):
                total += float(value)
        return total


@pytest.fixture(scope="session")
def target(server: Started) -> Target:
    """The service that all tests share."""
    return Target.of_service(server)


@pytest.fixture(scope="session")
def shared_memory_target(serve: Serve) -> Iterator[Target]:
    """A service with shared memory enabled and a limit of 1 MiB for a body."""
    settings = {"shared_memory_prefix": f"/{PREFIX}", "max_body_bytes": str(2**20)}
    with serve(**{f"ROPE_{name.upper()}": value for name, value in settings.items()}) as started:
        yield Target.of_service(started)


@pytest.fixture(scope="session")
def idle_connection(target: Target) -> Iterator[tuple[Any, list[str], float]]:
    """A client with an idle gRPC connection, the states of the connection, and its start time.

    The client pings every second.
    """
    grpc = pytest.importorskip("tritonclient.grpc")
    keepalive = grpc.KeepAliveOptions(1_000, 5_000, True, 0)
    states: list[str] = []
    with grpc.InferenceServerClient(target.grpc, keepalive_options=keepalive) as client:
        assert client.is_server_live()
        client._channel.subscribe(lambda state: states.append(state.name))
        yield client, states, time.monotonic()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    pytest.importorskip("tritonclient")
    return request.param


@pytest.fixture
def connect(kind: str, idle_connection: object) -> Iterator[Callable[..., Client]]:
    """Return a function that makes clients of the kind; the fixture closes them."""
    with contextlib.ExitStack() as stack:

        def make_client(target: Target, **options: object) -> Client:
            client = Client(kind, target.of(kind), **options)
            stack.callback(client.close)
            return client

        yield make_client


@pytest.fixture
def client(connect: Callable[..., Client], target: Target) -> Client:
    """One of tritonclient's four clients."""
    return connect(target)


@pytest.fixture
def refused(kind: str) -> Callable[[str], AbstractContextManager[list[str]]]:
    """Expect that a call fails with this HTTP status or its gRPC code, and a text of one line."""
    from tritonclient.utils import InferenceServerException

    @contextmanager
    def refused(status: str, *words: str) -> Iterator[None]:
        with pytest.raises(InferenceServerException) as failure:
            yield
        expected = status if kind.startswith("http") else f"StatusCode.{STATUSES[status]}"
        assert failure.value.status() == expected, failure.value
        text = failure.value.message()
        assert text
        assert "\n" not in text
        for word in words:
            assert word in text

    return refused


@pytest.fixture
def busy(target: Target) -> Iterator[None]:
    """The service computes for some tenths of a second; other calls wait meanwhile."""
    q = torch.zeros(1, 2000, 8, 64)
    body = b"".join(
        safetensors_codec.encode(Message({"q": q, "k": q, "v": q}, Parameters.of({"softcap": 5.0})))
    )
    headers = {"content-type": safetensors_codec.media_type}

    def attend(_: int) -> int:
        url = f"{target.url}/v1/attention"
        return httpx.post(url, content=body, headers=headers, timeout=60).status_code

    with ThreadPoolExecutor() as pool:
        statuses = pool.map(attend, range(2))
        wait_until(lambda: target.metric("rope_queue_depth") > 0)  # one runs, the other waits
        yield
        assert [*statuses] == [200, 200]
