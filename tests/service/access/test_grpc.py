"""API keys over gRPC: each RPC is authorized by its metadata, with and without a plan."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
import pytest_asyncio
import torch

from service.access.tenant import Tenant
from service.lifecycle import Lifecycle
from service.oip.grpc.messages import METHODS
from service.oip.grpc.methods import grpc_methods
from service.oip.state import OipState
from service.server.bootstrap import build_service, lifespan
from service.settings import Settings
from tests.service.access.keys_files import ADMIN, INFER, METRICS, OTHER, write_all
from tests.service.oip.conftest import RunningGrpc, run_grpc
from tests.service.oip.test_grpc_planned import RIGHT

pytestmark = pytest.mark.asyncio(loop_scope="module")

CODE = grpc.StatusCode

HEALTH = "/grpc.health.v1.Health/Check"

BODY = RIGHT["float32"].SerializeToString()

Metadata = Iterable[tuple[str, str]]


class Keyed(NamedTuple):
    """A service over gRPC with keys."""

    running: RunningGrpc
    state: OipState
    path: Path
    tenants: list[Tenant]
    """Tenants of all calls that were put into the queue."""

    async def ask(self, path: str, key: str | None = None, body: bytes = b"", **more: Any) -> CODE:
        """Return the status of an RPC."""
        metadata = more.pop("metadata", authorization(*([] if key is None else [key])))
        rpc = self.running.channel.unary_unary(path)(body, metadata=metadata, timeout=30, **more)
        return await rpc.code()

    async def infer(self, key: str) -> CODE:
        return await self.ask(METHODS["ModelInfer"].path, key, BODY)

    def change_keys(self, *infer_keys: str) -> None:
        write_all(self.path, *infer_keys)
        self.state.handler.gate.file.next_look = 0.0


def authorization(*keys: str) -> Metadata:
    return tuple(("authorization", f"Bearer {key}") for key in keys)


@asynccontextmanager
async def keyed_service(path: Path) -> AsyncIterator[Keyed]:
    threads = torch.get_num_threads()
    lifecycle = Lifecycle()
    settings = Settings(device="cpu", warm_up_shapes="", keys_file=write_all(path))
    handler, device_threads = build_service(settings, lifecycle)
    state = OipState(handler, lifecycle)
    tenants: list[Tenant] = []
    enqueue = handler.batcher.enqueue

    def enqueue_and_note(entry: Any) -> None:
        tenants.append(entry.tenant)
        enqueue(entry)

    handler.batcher.enqueue = enqueue_and_note
    async with (
        lifespan(state, device_threads),
        run_grpc(lifecycle, grpc_methods(state), gate=handler.gate) as running,
    ):
        yield Keyed(running, state, path, tenants)
    torch.set_num_threads(threads)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Keyed]:
    async with keyed_service(tmp_path_factory.mktemp("keys") / "keys.toml") as keyed:
        yield keyed


REFUSED: dict[str, Metadata] = {
    "no key": (),
    "wrong key": authorization("wrong"),
    "one character short": authorization(INFER[:-1]),
    "empty": (("authorization", ""),),
    "other scheme": (("authorization", f"Basic {INFER}"),),
    "two keys": authorization(INFER, "wrong"),
    "two keys, the last right": authorization("wrong", INFER),
    "another name": (("x-api-key", INFER), ("authorization-bin", f"Bearer {INFER}".encode())),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_rpcs_without_a_valid_key_are_refused(service: Keyed, name: str):
    for _ in range(3):
        assert await service.infer(INFER) is CODE.OK, "its message has a plan then"
        metadata = REFUSED[name]
        path = METHODS["ModelInfer"].path
        assert await service.ask(path, body=BODY, metadata=metadata) is CODE.UNAUTHENTICATED
        stream = service.running.channel.stream_stream(METHODS["ModelStreamInfer"].path)
        assert await stream(metadata=metadata).code() is CODE.UNAUTHENTICATED


async def test_the_tenant_is_that_of_each_rpc(service: Keyed):
    service.tenants.clear()
    for key in (INFER, OTHER, ADMIN) * 3:
        assert await service.infer(key) is CODE.OK
    stream = service.running.channel.stream_stream(METHODS["ModelStreamInfer"].path)
    responses = [
        response async for response in stream(iter([BODY] * 2), metadata=authorization(OTHER))
    ]
    assert len(responses) == 2
    names = [tenant.name for tenant in service.tenants]
    assert names == ["one", "two", "operator"] * 3 + ["two"] * 2


@pytest.mark.parametrize(
    ("method", "codes"),
    [
        (HEALTH, (CODE.OK, CODE.OK, CODE.OK, CODE.OK)),
        ("ServerLive", (CODE.OK, CODE.OK, CODE.OK, CODE.OK)),
        ("ServerMetadata", (CODE.UNAUTHENTICATED, CODE.OK, CODE.PERMISSION_DENIED, CODE.OK)),
        (
            "ModelStatistics",
            (CODE.UNAUTHENTICATED, CODE.PERMISSION_DENIED, CODE.OK, CODE.PERMISSION_DENIED),
        ),
        (
            "LogSettings",
            (CODE.UNAUTHENTICATED, CODE.PERMISSION_DENIED, CODE.PERMISSION_DENIED, CODE.OK),
        ),
    ],
)
async def test_a_key_may_use_the_methods_of_its_scopes(service: Keyed, method: str, codes):
    path = METHODS[method].path if method in METHODS else method
    found = [await service.ask(path, key) for key in (None, INFER, METRICS, ADMIN)]
    assert found == [*codes]


async def test_a_large_message_without_a_key_is_not_received(service: Keyed, monkeypatch):
    """The RPC ends before its message is read."""
    received = []
    handlers = service.running.server._rpcs
    monkeypatch.setattr(handlers, "_begin", lambda *_: received.append(1))
    code = await service.ask(METHODS["ModelInfer"].path, "wrong", bytes(2**22))
    assert code is CODE.UNAUTHENTICATED
    assert not received


async def test_keys_change_without_a_restart(tmp_path):
    async with keyed_service(tmp_path / "keys.toml") as service:
        messages: asyncio.Queue[bytes | None] = asyncio.Queue()

        async def send() -> AsyncIterator[bytes]:
            while (message := await messages.get()) is not None:
                yield message

        path = METHODS["ModelStreamInfer"].path
        stream = service.running.channel.stream_stream(path)
        call = stream(send(), metadata=authorization(INFER))
        messages.put_nowait(BODY)
        assert await call.read()
        for _ in range(3):
            assert await service.infer(INFER) is CODE.OK
        service.change_keys("new")
        for _ in range(3):
            assert await service.infer(INFER) is CODE.UNAUTHENTICATED
            assert await service.infer("new") is CODE.OK
        messages.put_nowait(BODY)
        async with asyncio.timeout(30):
            assert await call.code() is CODE.UNAUTHENTICATED, "the open stream ends"
