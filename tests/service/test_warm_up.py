"""The warm-up: what it runs, where, and what keeps the service from becoming ready."""

import asyncio
import random
import threading
from collections.abc import Hashable, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import torch

import rope_core
from rope_core import Attend, CosSin, Merge, NoBackend, Rotate, Shift
from rope_core.backends import eager
from rope_core.builds import deferred_builds
from rope_core.calls import tensors_of
from rope_core.errors import KernelNotBuilt
from service.buffer_pool import BufferPool
from service.device import Cpu
from service.inference.backend_policy import BackendPolicy
from service.inference.engine import Engine
from service.kernel_builds.builder import KernelBuilder
from service.kernel_builds.warm_up_calls import rare_calls, usual_calls, warm_up_calls
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
async def test_each_lane_runs_the_usual_calls_of_each_shape_before_the_service_is_ready(
    runs, shapes
):
    lifecycle = Lifecycle()
    async with starting(lifecycle, FakeDriver(), shapes):
        await until(Phase.READY, lifecycle)
        before = [(thread, call) for thread, call in runs if thread.startswith("device")]
    listed = [tuple(map(int, shape.split("x"))) for shape in filter(None, shapes.split(","))]
    usual = [call for shape in listed for call in usual_calls(*shape)]
    threads = {thread for thread, _ in before}
    assert len(threads) == (2 if listed else 0)
    for thread in threads:
        mine = [type(call) for name, call in before if name == thread]
        assert mine == [type(call) for call in usual]


async def test_memory_is_pinned_before_the_service_is_ready_and_not_on_the_event_loop():
    lifecycle, driver = Lifecycle(), FakeDriver()
    async with starting(lifecycle, driver, ""):
        await until(Phase.READY, lifecycle)
        assert len(driver.pinned) >= 2
        assert threading.get_ident() not in driver.pinning_threads


async def test_rare_calls_follow_on_a_device_for_which_kernels_are_built(runs, monkeypatch):
    ended, lifecycle = asyncio.Event(), Lifecycle()
    monkeypatch.setattr("service.server.app.rare_calls", lambda *_: iter([shift_of(3)]))
    loop, run = asyncio.get_running_loop(), Engine.run

    def tell(engine, jobs):
        answered = run(engine, jobs)
        if isinstance(jobs[0].call, Shift) and jobs[0].call.k.shape[1] == 3:
            assert lifecycle.phase is Phase.READY
            loop.call_soon_threadsafe(ended.set)
        return answered

    monkeypatch.setattr(Engine, "run", tell)
    async with starting(lifecycle, FakeDriver(), "2x1x16"):
        await asyncio.wait_for(ended.wait(), 60)


def test_a_call_is_run_again_after_builds_that_end_before_anybody_waits():
    builder, built = KernelBuilder(Metrics()), []

    class MissesThreeKernels:
        """Stands for an engine: each run misses one kernel, whose build is over at once."""

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
    monkeypatch.setattr("service.server.app._backend", lambda *_: "fused")  # as if there were a GPU
    app = create_app(settings, lifecycle, FakeDriver())
    async with app.app.router.lifespan_context(app.app):
        assert await asyncio.to_thread(backend.begun.wait, 30)
        assert lifecycle.phase is Phase.WARMING_UP
        backend.go.set()
        await until(Phase.READY, lifecycle)
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
    lifecycle, failed = Lifecycle(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def note(message, **_):
        loop.call_soon_threadsafe(failed.set)

    monkeypatch.setattr("service.server.app.log.exception", note)
    async with starting(lifecycle, FakeDriver(), "2x1x16"):
        if phase is None:
            await asyncio.wait_for(failed.wait(), 60)
            assert lifecycle.phase is Phase.WARMING_UP
        else:
            await until(phase, lifecycle)
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
        of_dtype = [c for c in calls if not isinstance(c, CosSin)]
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


def test_rotations_are_by_positions_and_by_tables_of_whole_and_of_partial_heads():
    rotations = [c for c in warm_up_calls(4, 2, 64) if isinstance(c, Rotate)]
    for layout in ("half", "interleaved"):
        some = [c for c in rotations if c.rope.layout == layout]
        assert {c.rope.arithmetic for c in some} == {"float64", "hf"}
        assert {c.rope.rotary_dim for c in some} == {32, 64}
        assert {(c.q is None, c.k is None) for c in some} == {
            *((False, False), (False, True), (True, False))
        }
        dtypes = {None if c.positions is None else c.positions.dtype for c in some}
        assert dtypes == {None, torch.int64, torch.float64}


def missed_variants(calls: Iterable[rope_core.Call]) -> set[Hashable]:
    """Return the kernels that calls would have built; none is built or launched."""
    functions = {
        Attend: rope_core.attend,
        Rotate: rope_core.rotate,
        Shift: rope_core.shift,
        Merge: rope_core.merge,
    }
    missed: dict[Hashable, dict[Hashable, object]] = {}

    def pretend(key: Hashable, build: partial) -> None:
        missed[key] = build.func.__self__.built
        missed[key][key] = lambda *_: None

    with deferred_builds(pretend):
        for call in calls:
            with suppress(NoBackend):
                while True:
                    try:
                        functions[type(call)](call, backend="fused")
                        break
                    except KernelNotBuilt:
                        continue
    for key, built in missed.items():
        del built[key]
    return {*missed}


def moving(rng: random.Random, heads: int, kv_heads: int, head_dim: int) -> rope_core.Call:
    """Return any rotation, shift or merger that a client of a model may ask for."""
    dtype, rows, length = rng.choice(DTYPES), rng.choice((1, 1, 2)), rng.randint(1, 40)
    q, k = (torch.zeros(rows, length, n, head_dim, dtype=dtype) for n in (heads, kv_heads))
    rope = rope_core.RopeConfig.of(
        head_dim,
        rotary_dim=rng.choice((head_dim, head_dim // 2)),
        layout=rng.choice(("half", "interleaved")),
        arithmetic=rng.choice(("float64", "hf")),
    )
    at = torch.arange(length)
    positions = rng.choice((None, at, at.int(), at.float(), at.double(), at.expand(rows, -1)))
    match rng.choice((Rotate, Rotate, Shift, Merge)):
        case kind if kind is Rotate:
            some = rng.choice(((q, k), (q, None), (None, k)))
            return Rotate(*some, rope, positions, inverse=rng.random() < 0.3)
        case kind if kind is Shift:
            return Shift(k, rng.choice((torch.tensor(3), at)), rope)
    parts = q.expand(rng.randint(1, 5), *q.shape).contiguous()
    return Merge(parts, torch.zeros(parts.shape[:-1]))


@pytest.mark.parametrize("shape", [(32, 8, 128), (28, 4, 128), (16, 16, 64)], ids=str)
def test_no_rotation_shift_or_merger_misses_a_kernel_after_the_warm_up(interpreted, shape):
    calls = [c for c in warm_up_calls(*shape) if isinstance(c, (Rotate, Shift, Merge))]
    rng = random.Random(11)
    asked = [moving(rng, *shape) for _ in range(150)]
    warm = missed_variants(calls)
    assert missed_variants(asked) <= warm
    assert len(warm) > 20


def attending(rng: random.Random, heads: int, kv_heads: int, head_dim: int) -> Attend:
    """Return any attention with at most one feature that some models have."""
    dtype, rows = rng.choice(DTYPES), rng.choice((1, 1, 2))
    num_keys = rng.choice((rng.randint(1, 90), rng.randint(200, 3000)))
    num_queries = rng.choice((1, rng.randint(1, num_keys), min(num_keys, rng.randint(1, 90))))
    q = torch.zeros(rows, num_queries, heads, head_dim, dtype=dtype)
    k = torch.zeros(rows, num_keys, kv_heads, head_dim, dtype=dtype)
    mask = torch.ones(num_queries, num_keys, dtype=torch.bool)
    index = torch.arange(num_queries)
    feature = rng.choice(
        (
            *({}, {}, {"mask": mask}, {"mask": mask.to(dtype)}, {"mask": mask[None, None]}),
            *({"sinks": torch.zeros(heads)}, {"q_index": index}, {"out_dtype": torch.float32}),
            {"q_index": index, "out_dtype": torch.float32},
        )
    )
    bounds = rng.choice(({}, {"window": 9}, {"causal": False}, {"chunk": 12}, {"scale": 1.0}))
    if not feature:
        bounds |= rng.choice(({}, {"softcap": 30.0}))
    rope = rng.choice((None, rope_core.RopeConfig.of(head_dim)))
    config = rope_core.AttentionConfig(**bounds)
    return Attend(q, k, k, rope, config, return_lse=rng.random() < 0.5, **feature)


@pytest.mark.parametrize("shape", [(32, 8, 128), (7, 1, 64)], ids=str)
def test_no_attention_misses_a_kernel_after_the_warm_up(interpreted, shape):
    rng = random.Random(12)
    asked = [attending(rng, *shape) for _ in range(150)]
    warm = missed_variants(c for c in warm_up_calls(*shape) if not isinstance(c, CosSin))
    usual = missed_variants(c for c in usual_calls(*shape) if not isinstance(c, CosSin))
    assert missed_variants(asked) <= warm
    assert usual < warm


@pytest.mark.parametrize("shape", [(6, 3, 16), (9, 1, 8)], ids=str)
def test_every_call_runs(shape):
    engine = Engine(Cpu(BufferPool(2**24)), max_call_s=60, stuck_s=30)
    for call in warm_up_calls(*shape):
        (result,) = engine.run([engine.job(call)]).results
        tensors = tensors_of(result)
        assert tensors, "an answer"
        assert not any(tensor.isnan().any() for tensor in tensors.values())
