"""The warm-up: what it runs, on which threads, and when the service becomes ready."""

import asyncio
import threading
from contextlib import asynccontextmanager
from functools import partial

import pytest
import torch

import rope_core
from rope_core import Shift
from rope_core.backends import eager
from service.inference.backend_policy import BackendPolicy
from service.inference.engine import Engine
from service.kernel_builds.builder import KernelBuilder
from service.kernel_builds.warm_up_calls import usual_calls
from service.lifecycle import Lifecycle, Phase
from service.observability.metrics import Metrics
from service.server.app import create_app
from service.server.warm_up import warm_up
from service.settings import Settings
from tests.service.fake_driver import FakeDriver
from tests.service.test_kernel_builds import SlowlyBuilt

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SHAPES = [(32, 8, 128), (4, 2, 64), (8, 8, 32), (71, 1, 64)]


@asynccontextmanager
async def starting(lifecycle: Lifecycle, driver: FakeDriver | None, shapes: str | None):
    device = {} if driver is not None else {"device": "cpu"}
    settings = Settings(log_level="error", warm_up_shapes=shapes, **device)
    app = create_app(settings, lifecycle, driver)
    async with app.app.router.lifespan_context(app.app):
        yield


async def until(phase: Phase, lifecycle: Lifecycle) -> None:
    async with asyncio.timeout(60):
        async for seen in lifecycle.changes():
            if seen is phase:
                break


@pytest.fixture
def runs(monkeypatch) -> list[tuple[str, rope_core.Call]]:
    """What the engine runs, and the thread that runs it."""
    seen = []
    run = Engine.run

    def record(engine, jobs):
        seen.extend((threading.current_thread().name, job.call) for job in jobs)
        return run(engine, jobs)

    monkeypatch.setattr(Engine, "run", record)
    return seen


@pytest.mark.parametrize("shapes", ["2x1x16", "4x4x8,6x3x16", ""])
async def test_each_device_thread_runs_the_usual_calls_before_the_service_is_ready(runs, shapes):
    lifecycle = Lifecycle()
    async with starting(lifecycle, FakeDriver(), shapes):
        await until(Phase.READY, lifecycle)
        before = [(thread, call) for thread, call in runs if thread.startswith("device")]
    listed = [tuple(map(int, shape.split("x"))) for shape in filter(None, shapes.split(","))]
    usual = [call for shape in listed for call in usual_calls(*shape)]
    threads = {thread for thread, _ in before}
    assert len(threads) == (2 if listed else 0)
    for thread in threads:
        kinds = [type(call) for name, call in before if name == thread]
        assert kinds == [type(call) for call in usual]


async def test_memory_is_pinned_before_the_service_is_ready_and_not_on_the_event_loop():
    lifecycle, driver = Lifecycle(), FakeDriver()
    async with starting(lifecycle, driver, ""):
        await until(Phase.READY, lifecycle)
        assert len(driver.pinned) >= 2
        assert threading.get_ident() not in driver.pinning_threads


async def test_rare_calls_run_after_the_service_is_ready_where_kernels_are_built(runs, monkeypatch):
    ended, lifecycle = asyncio.Event(), Lifecycle()
    monkeypatch.setattr("service.server.bootstrap.rare_calls", lambda *_: iter([shift_of(3)]))
    loop, run = asyncio.get_running_loop(), Engine.run

    def run_and_signal(engine, jobs):
        answers = run(engine, jobs)
        if isinstance(jobs[0].call, Shift) and jobs[0].call.k.shape[1] == 3:
            assert lifecycle.phase is Phase.READY
            loop.call_soon_threadsafe(ended.set)
        return answers

    monkeypatch.setattr(Engine, "run", run_and_signal)
    async with starting(lifecycle, FakeDriver(), "2x1x16"):
        await asyncio.wait_for(ended.wait(), 60)


def test_a_call_runs_again_after_builds_that_end_before_the_wait():
    builder, built = KernelBuilder(Metrics()), []

    class MissesThreeKernels:
        """An engine whose runs each miss one kernel, which is built at once."""

        def job(self, call, backend):
            return call

        def run(self, jobs):
            if len(built) < 3:
                builder.start(len(built), partial(built.append, len(built)))
                builder.wait()

    warm_up(MissesThreeKernels(), BackendPolicy(), builder, [shift_of(3)], required=True)
    assert built == [0, 1, 2]


def shift_of(length: int) -> Shift:
    return Shift(torch.zeros(1, length, 1, 16), torch.tensor(1), rope_core.RopeConfig.of(16))


async def test_a_cpu_runs_a_tiny_shape_and_nothing_rare(runs):
    lifecycle = Lifecycle()
    async with starting(lifecycle, None, None):
        await until(Phase.READY, lifecycle)
    assert {call.num_bytes < 2**18 for _, call in runs} == {True}
    assert len(runs) == len([*usual_calls(2, 1, 16)])


async def test_the_service_is_ready_when_the_kernels_of_usual_calls_are_built(monkeypatch):
    backend, lifecycle = SlowlyBuilt(), Lifecycle()
    monkeypatch.setattr(rope_core.backends, "BACKENDS", (backend, eager))
    monkeypatch.setattr(rope_core.backends.fused, "unavailable", lambda _: "there is no GPU")
    settings = Settings(log_level="error", warm_up_shapes="2x1x16")
    monkeypatch.setattr(
        "service.server.bootstrap._default_backend", lambda *_: "fused"
    )  # as if there were a GPU
    app = create_app(settings, lifecycle, FakeDriver())
    async with app.app.router.lifespan_context(app.app):
        assert await asyncio.to_thread(backend.started.wait, 30)
        assert lifecycle.phase is Phase.WARMING_UP
        backend.go.set()
        await until(Phase.READY, lifecycle)
        assert {(2, 16), (1, 16)} <= backend.built


@pytest.mark.parametrize(("broken", "phase"), [("fused", Phase.READY), ("all", None)])
async def test_a_failing_call_keeps_the_service_unready_only_if_eager_fails_as_well(
    monkeypatch, caplog, broken, phase
):
    rotate = rope_core.rotary.run_rotate

    def fragile(call, out, backend):
        if call.q_or_k.dtype is torch.float16 and (broken == "all" or backend != "eager"):
            raise RuntimeError("ptxas says no")
        return rotate(call, out, backend)

    monkeypatch.setattr(rope_core.rotary, "run_rotate", fragile)
    lifecycle, failed = Lifecycle(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def signal_failure(message, **_):
        loop.call_soon_threadsafe(failed.set)

    monkeypatch.setattr("service.server.bootstrap.log.exception", signal_failure)
    async with starting(lifecycle, FakeDriver(), "2x1x16"):
        if phase is None:
            await asyncio.wait_for(failed.wait(), 60)
            assert lifecycle.phase is Phase.WARMING_UP
        else:
            await until(phase, lifecycle)
            assert "a call of the warm-up failed" in caplog.text
