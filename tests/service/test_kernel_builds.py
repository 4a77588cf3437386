"""Kernels that requests miss are built beside the service, whatever clients send."""

import asyncio
import logging
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import pytest
import torch

import rope_core
from rope_core.backends import RotaryWork, eager
from rope_core.builds import ensure_built
from rope_core.errors import KernelNotBuilt
from service.batching.batcher import Batcher
from service.kernel_builds.builder import MAX_WAITING, RETRY_S, KernelBuilder
from service.lifecycle import Lifecycle, Phase
from service.observability.metrics import Metrics
from service.oip.grpc.errors import status_of
from service.oip.state import OipState
from service.server.app import build_app
from service.server.bootstrap import build_service, lifespan
from service.settings import Settings
from service.wire import Message, Parameters
from service.wire import safetensors_codec as codec
from tests.clock import Clock
from tests.service.conftest import asking, post
from tests.service.fake_driver import FakeDriver

ODD_SHAPES = [(heads, 2 * width) for heads in (1, 2, 3) for width in range(5, 15)]


class SlowlyBuilt:
    """Stands for the fused backend: a kernel for each shape of heads, which waits for `go`."""

    name = "fused"

    def __init__(self) -> None:
        self.go = threading.Event()
        self.started = threading.Event()
        self.builds: Counter[tuple[int, ...]] = Counter()
        self.built: set[tuple[int, ...]] = set()

    def why_not(self, work: object, named: bool) -> str | None:
        return None if isinstance(work, RotaryWork) else "it rotates only"

    def run(self, work: RotaryWork) -> tuple[torch.Tensor, ...]:
        key = tuple(work.xs[0].shape[1:])
        ensure_built({} if key in self.built else {key: partial(self._build, key)})
        return eager.run(work)

    def _build(self, key: tuple[int, ...]) -> None:
        self.started.set()
        self.builds[key] += 1
        assert self.go.wait(60)
        self.built.add(key)


@pytest.fixture
def fused(monkeypatch) -> SlowlyBuilt:
    backend = SlowlyBuilt()
    monkeypatch.setattr(rope_core.backends, "BACKENDS", (backend, eager))
    monkeypatch.setattr(rope_core.backends.fused, "unavailable", lambda _: "there is no GPU")
    return backend


@pytest.fixture
async def serving(fused):
    """The service on a device that is stuck if it answers nothing for five seconds."""
    lifecycle = Lifecycle()
    settings = Settings(log_level="error", allow_backend=True, device_stuck_s=5, warm_up_shapes="")
    service, device_threads = build_service(settings, lifecycle, FakeDriver())
    oip_state = OipState(service, lifecycle)
    async with (
        lifespan(oip_state, device_threads),
        asking(build_app(oip_state, device_threads)) as client,
    ):
        yield client, lifecycle, service
        fused.go.set()


async def rotate(client: httpx.AsyncClient, shape: tuple[int, int], **params: str):
    message = Message({"q": torch.ones(1, 3, *shape)}, Parameters.of(params))
    return await post(client, codec, "/v1/rotate", message)


def done_by(answer: httpx.Response) -> str:
    return answer.headers["server-timing"].rpartition("backend;desc=")[2].strip('"')


async def test_odd_shapes_neither_stop_nor_stall_the_service(serving, fused):
    client, lifecycle, service = serving
    named = [rotate(client, shape, backend="fused") for shape in ODD_SHAPES * 2]
    others = [rotate(client, shape, backend="eager") for shape in ODD_SHAPES]
    answers = await asyncio.gather(*named, *others)
    for refused in answers[: len(named)]:
        assert (refused.status_code, refused.json()["code"]) == (503, "kernel_not_built")
        assert refused.headers["retry-after"]
    assert all(answer.status_code == 200 for answer in answers[len(named) :])
    assert lifecycle.phase is Phase.READY
    assert await asyncio.to_thread(fused.started.wait, 30)
    assert fused.built == set(), "no build has ended"
    seen = (await client.get("/metrics")).text
    assert f"rope_kernel_builds_waiting {len(ODD_SHAPES) - 1}.0" in seen
    fused.go.set()
    await asyncio.to_thread(service.builder.wait)
    answers = await asyncio.gather(*(rotate(client, s, backend="fused") for s in ODD_SHAPES))
    assert {(answer.status_code, done_by(answer)) for answer in answers} == {(200, "fused")}
    assert {*fused.builds.values()} == {1}, "each is built once"
    seen = (await client.get("/metrics")).text
    assert f'rope_kernel_builds_total{{outcome="built"}} {len(ODD_SHAPES)}.0' in seen
    assert f"rope_kernel_build_seconds_count {len(ODD_SHAPES)}.0" in seen


async def test_odd_shapes_that_name_no_backend_are_answered_by_eager_until_kernels_are_built(
    serving, fused
):
    client, lifecycle, service = serving
    answers = await asyncio.gather(*(rotate(client, shape) for shape in ODD_SHAPES * 2))
    assert {(answer.status_code, done_by(answer)) for answer in answers} == {(200, "eager")}
    assert (lifecycle.phase, fused.built) == (Phase.READY, set())
    fused.go.set()
    await asyncio.to_thread(service.builder.wait)
    again = await asyncio.gather(*(rotate(client, shape) for shape in ODD_SHAPES * 2))
    assert {(answer.status_code, done_by(answer)) for answer in again} == {(200, "fused")}
    assert [each.content for each in again] == [each.content for each in answers]
    assert {*fused.builds.values()} == {1}, "each is built once"


async def test_a_full_queue_of_builds_refuses_no_request(serving, fused, monkeypatch):
    client, _, service = serving
    monkeypatch.setattr("service.kernel_builds.builder.MAX_WAITING", 3)
    answers = await asyncio.gather(*(rotate(client, shape) for shape in ODD_SHAPES))
    assert {(answer.status_code, done_by(answer)) for answer in answers} == {(200, "eager")}
    fused.go.set()
    for _ in ODD_SHAPES:
        await asyncio.to_thread(service.builder.wait)
        answers = await asyncio.gather(*(rotate(client, shape) for shape in ODD_SHAPES))
        assert {answer.status_code for answer in answers} == {200}
    assert len(fused.built) == len(ODD_SHAPES)
    assert {*fused.builds.values()} == {1}


async def test_a_missing_kernel_costs_the_neighbours_of_its_run_nothing(serving, fused):
    _, _, service = serving
    fused.built.add((2, 16))
    shapes = [(2, 16), (3, 16), (2, 16)]
    calls = [
        rope_core.Rotate(torch.ones(2, 3, *shape), None, rope_core.RopeConfig.of(16))
        for shape in shapes
    ]
    jobs = [service.engine.job(call, "fused") for call in calls]
    run = await asyncio.to_thread(service.engine.run, jobs)
    missing = [isinstance(result, KernelNotBuilt) for result in run.results]
    assert missing == [False, True, False]


async def test_a_kernel_that_finds_no_memory_is_loaded_after_the_pool_gave_some_back(
    serving, fused, monkeypatch
):
    client, _, service = serving
    driver, build, tries = service.engine.device._driver, fused._build, []

    def load(key: tuple[int, ...]) -> None:
        tries.append(driver.num_cache_clears)
        if len(tries) == 1:
            raise torch.OutOfMemoryError("Triton Error [CUDA]: out of memory")
        build(key)

    monkeypatch.setattr(fused, "_build", load)
    fused.go.set()
    for backend in ("eager", "fused"):
        assert done_by(await rotate(client, (2, 16))) == backend
        await asyncio.to_thread(service.builder.wait)
    assert tries == [0, 1]


async def test_the_watchdog_restarts_when_a_build_begins_and_ends(serving, fused, monkeypatch):
    _, _, service = serving
    threads, both = [], asyncio.Event()

    def record(_: Batcher) -> None:
        threads.append(threading.get_ident())
        if len(threads) == 2:
            both.set()

    monkeypatch.setattr(Batcher, "restart_watchdog", record)
    service.builder.start("key", lambda: None)
    await asyncio.wait_for(both.wait(), 30)
    assert {*threads} == {threading.get_ident()}, "on the event loop"


def test_a_kernel_that_is_not_built_is_unavailable_over_grpc():
    code, text, _ = status_of(KernelNotBuilt())
    assert code.name == "UNAVAILABLE"
    assert "being built" in text


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def builder(clock) -> KernelBuilder:
    return KernelBuilder(Metrics(), clock)


def test_a_build_beyond_a_full_queue_can_be_started_again(builder):
    go, started, built = threading.Event(), threading.Event(), []

    def first() -> None:
        started.set()
        assert go.wait(30)

    builder.start("first", first)
    assert started.wait(30)
    for key in range(MAX_WAITING + 5):
        builder.start(key, partial(built.append, key))
    assert builder.num_waiting == MAX_WAITING
    go.set()
    builder.wait()
    assert built == [*range(MAX_WAITING)]
    for key in range(MAX_WAITING + 5):
        builder.start(key, partial(built.append, key))
    builder.wait()
    assert built == [*range(MAX_WAITING + 5)]
    builder.wait()  # returns, as there is nothing to wait for


def test_a_build_that_fails_is_not_tried_again_at_once(builder, clock, caplog):
    tries = []

    def fail() -> None:
        tries.append(clock.now)
        raise RuntimeError("Triton Error [CUDA]: out of memory")

    with caplog.at_level(logging.ERROR, "rope.kernels"):
        for clock.now in (0.0, 1.0, RETRY_S + 1):
            builder.start("key", fail)
            builder.wait()
    assert tries == [0.0, RETRY_S + 1]
    assert len(caplog.records) == 2
    assert caplog.records[0].fields["kernel"] == "key"


def test_close_drops_waiting_builds_and_does_not_wait_for_the_running_one(builder):
    go, started, built = threading.Event(), threading.Event(), []

    def build() -> None:
        started.set()
        go.wait(30)

    builder.start("running", build)
    assert started.wait(30)
    builder.start("waiting", lambda: built.append("waiting"))
    with ThreadPoolExecutor(1) as thread:
        waiter = thread.submit(builder.wait)
        builder.close()
        waiter.result(30)
    (worker,) = (t for t in threading.enumerate() if t.name == "kernel-builder")
    assert worker.daemon
    builder.start("late", lambda: built.append("late"))
    go.set()
    worker.join(30)
    assert built == []
