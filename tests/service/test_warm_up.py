"""The warm-up: what it runs, where, and what keeps the service from becoming ready."""

import asyncio
import threading
from contextlib import asynccontextmanager

import pytest
import torch

import rope_core
from rope_core import Attend, Merge, Rotate, Shift
from rope_core.backends import eager
from service.app import create_app
from service.device import Cpu
from service.engine import Engine
from service.life import Life, Phase
from service.settings import Settings
from service.slabs import Slabs
from service.warm_up_calls import rare_calls, usual_calls, warm_up_calls
from tests.service.fake_driver import FakeDriver
from tests.service.test_kernel_builds import SlowlyBuilt

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SHAPES = [(32, 8, 128), (4, 2, 64), (8, 8, 32), (71, 1, 64)]


@asynccontextmanager
async def starting(life: Life, driver: FakeDriver | None, shapes: str | None):
    device = {} if driver is not None else {"device": "cpu"}
    settings = Settings(log_level="error", warm_up_shapes=shapes, **device)
    app = create_app(settings, life, driver)
    async with app.app.router.lifespan_context(app.app):
        yield


async def until(phase: Phase, life: Life) -> None:
    async with asyncio.timeout(60):
        async for seen in life.changes():
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
async def test_each_lane_runs_the_usual_calls_of_each_shape_before_the_service_is_ready(
    runs, shapes
):
    life = Life()
    async with starting(life, FakeDriver(), shapes):
        await until(Phase.READY, life)
        before = [(thread, call) for thread, call in runs if thread.startswith("device")]
    listed = [tuple(map(int, shape.split("x"))) for shape in filter(None, shapes.split(","))]
    usual = [call for shape in listed for call in usual_calls(*shape)]
    threads = {thread for thread, _ in before}
    assert len(threads) == (2 if listed else 0)
    for thread in threads:
        mine = [type(call) for name, call in before if name == thread]
        assert mine == [type(call) for call in usual]


async def test_rare_calls_follow_on_a_device_for_which_kernels_are_built(runs, monkeypatch):
    ended, life = asyncio.Event(), Life()
    monkeypatch.setattr("service.app.rare_calls", lambda *_: iter([shift_of(3)]))
    loop, run = asyncio.get_running_loop(), Engine.run

    def tell(engine, jobs):
        answered = run(engine, jobs)
        if isinstance(jobs[0].call, Shift) and jobs[0].call.k.shape[1] == 3:
            assert life.phase is Phase.READY
            loop.call_soon_threadsafe(ended.set)
        return answered

    monkeypatch.setattr(Engine, "run", tell)
    async with starting(life, FakeDriver(), "2x1x16"):
        await asyncio.wait_for(ended.wait(), 60)


def shift_of(length: int) -> Shift:
    return Shift(torch.zeros(1, length, 1, 16), torch.tensor(1), rope_core.RopeConfig.of(16))


async def test_a_cpu_runs_a_tiny_shape_and_nothing_rare(runs):
    life = Life()
    async with starting(life, None, None):
        await until(Phase.READY, life)
    assert {call.num_bytes < 2**18 for _, call in runs} == {True}
    assert len(runs) == len([*usual_calls(4, 2, 64)])


async def test_the_service_is_ready_when_the_kernels_of_usual_calls_are_built(monkeypatch):
    backend, life = SlowlyBuilt(), Life()
    monkeypatch.setattr(rope_core.backends, "BACKENDS", (backend, eager))
    monkeypatch.setattr(rope_core.backends.fused, "unavailable", lambda _: "there is no GPU")
    settings = Settings(log_level="error", warm_up_shapes="2x1x16")
    monkeypatch.setattr("service.app._backend", lambda *_: "fused")  # as if there were a GPU
    app = create_app(settings, life, FakeDriver())
    async with app.app.router.lifespan_context(app.app):
        assert await asyncio.to_thread(backend.begun.wait, 30)
        assert life.phase is Phase.WARMING_UP
        backend.go.set()
        await until(Phase.READY, life)
        assert {(2, 16), (1, 16)} <= backend.built


@pytest.mark.parametrize(("broken", "phase"), [("fused", Phase.READY), ("all", None)])
async def test_a_call_that_fails_keeps_the_service_from_being_ready_only_if_eager_fails_as_well(
    monkeypatch, caplog, broken, phase
):
    rotate = rope_core.rotate

    def fragile(call, out, backend):
        if call.like.dtype is torch.float16 and (broken == "all" or backend != "eager"):
            raise RuntimeError("ptxas says no")
        return rotate(call, out, backend)

    monkeypatch.setattr(rope_core, "rotate", fragile)
    life, failed = Life(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def note(message, **_):
        loop.call_soon_threadsafe(failed.set)

    monkeypatch.setattr("service.app.log.exception", note)
    async with starting(life, FakeDriver(), "2x1x16"):
        if phase is None:
            await asyncio.wait_for(failed.wait(), 60)
            assert life.phase is Phase.WARMING_UP
        else:
            await until(phase, life)
            assert "a call of the warm-up failed" in caplog.text


def num_rows(call: Attend) -> int:
    return call.q.shape[-3] * call.q.shape[-2] // call.k.shape[-2]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_usual_calls_reach_each_kernel_in_each_dtype(shape):
    calls = [*usual_calls(*shape)]
    for dtype in DTYPES:
        rows = {num_rows(c) for c in calls if isinstance(c, Attend) and c.q.dtype is dtype}
        assert max(rows) > 64, "the kernel of prompts"
        group = shape[0] // shape[1]
        assert group in rows, "a step of decoding"
        if group <= 64:
            assert any(16 < each <= 64 for each in rows), "decoding of more rows"
        of_dtype = [c for c in calls if not isinstance(c, rope_core.CosSin)]
        kinds = {type(c) for c in of_dtype if any_tensor(c).dtype is dtype}
        assert kinds == {Rotate, Attend, Shift, Merge}


def any_tensor(call: rope_core.Call) -> torch.Tensor:
    return call.out if isinstance(call, Merge) else call.k


@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
def test_rare_calls_reach_each_feature_in_each_dtype_and_kernel(shape):
    calls = [c for c in rare_calls(*shape) if isinstance(c, Attend)]
    for dtype in DTYPES:
        for few in (True, False):
            some = [c for c in calls if c.q.dtype is dtype and (num_rows(c) <= 64) is few]
            masks = {None if c.mask is None else c.mask.dtype for c in some}
            assert masks == {None, torch.bool, torch.float32}
            assert {c.q_index is None for c in some} == {True, False}
            assert {c.sinks is None for c in some} == {True, False}
            assert {c.out_dtype for c in some} == {None, torch.float32}
            assert {c.cu_seqlens_q is None for c in some} == {True, False}
            configs = [c.attention for c in some]
            for feature in ("causal", "window", "chunk", "softcap"):
                assert len({getattr(config, feature) for config in configs}) == 2, feature


def test_rotations_are_by_positions_of_each_dtype_and_by_tables_whole_and_partial():
    rotations = [c for c in warm_up_calls(4, 2, 64) if isinstance(c, Rotate)]
    for layout in ("half", "interleaved"):
        some = [c for c in rotations if c.rope.layout == layout]
        assert {c.rope.arithmetic for c in some} == {"float64", "hf"}
        assert {c.rope.rotary_dim for c in some} == {32, 64}
        dtypes = {None if c.positions is None else c.positions.dtype for c in some}
        assert dtypes == {None, torch.int32, torch.int64, torch.float32, torch.float64}


@pytest.mark.parametrize("shape", [(6, 3, 16), (9, 1, 8)], ids=str)
def test_every_call_runs(shape):
    engine = Engine(Cpu(Slabs(2**24)), max_call_s=60, max_answer_bytes=2**28, stuck_s=30)
    for call in warm_up_calls(*shape):
        engine.run([engine.job(call)])
