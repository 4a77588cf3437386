"""A device with memory of its own, by way of a driver that is late with all it is asked for."""

import asyncio
import gc
import random
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import rope_core
from rope_core import Attend, RopeConfig, Rotate
from rope_core.backends import Attention, Merging, Rotation
from rope_core.calls import tensors_of
from service.batching.batcher import Batcher
from service.buffer_pool import BufferPool
from service.device import Accelerator, Cpu, KernelBuilder
from service.errors import DeviceFull, DeviceLost
from service.inference.engine import Engine
from service.observability.metrics import Metrics
from tests.service import calls
from tests.service.fake_driver import FakeDriver, MetaDriver

ROPE = RopeConfig.of(64)


def engine_of(device: Accelerator | Cpu) -> Engine:
    return Engine(device, max_call_s=60, stuck_s=30)


def accelerator(driver: FakeDriver, buffer_pool: BufferPool) -> Accelerator:
    return Accelerator(driver, buffer_pool, KernelBuilder(Metrics()))


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


@pytest.fixture
def engine(driver: FakeDriver) -> Engine:
    return engine_of(accelerator(driver, BufferPool(2**28, driver)))


@pytest.fixture
def on_cpu() -> Engine:
    return engine_of(Cpu(BufferPool(2**28)))


def rotation(length: int, value: float = 1.0) -> Rotate:
    return Rotate(torch.full((1, length, 8, 64), float(value)), None, ROPE)


def attention(length: int = 8) -> Attend:
    q = torch.randn(1, length, 2, 64)
    return Attend(q, q, q, ROPE)


def answers(engine: Engine, asked: list) -> list:
    return [*engine.run([engine.job(call) for call in asked]).results]


def equal(one: object, other: object) -> bool:
    mine, theirs = tensors_of(one), tensors_of(other)
    return mine.keys() == theirs.keys() and all(
        mine[name].dtype is theirs[name].dtype and torch.equal(mine[name], theirs[name])
        for name in mine
    )


@pytest.mark.parametrize("num_calls", [1, 2, 7, 40])
def test_a_run_has_one_copy_in_and_one_out_whatever_its_calls(engine, driver, num_calls):
    rng = random.Random(num_calls)
    asked = [calls.any_call(rng) for _ in range(num_calls)]
    assert len({engine.job(call).batch_key for call in asked}) == 1, "they may share a run"
    assert len(answers(engine, asked)) == num_calls
    assert driver.log == ["bring", "compute", "computed", "fetch"]


@pytest.mark.parametrize("seed", range(12))
def test_runs_of_all_kinds_are_bit_equal_to_each_call_alone_on_the_cpu(engine, on_cpu, seed):
    rng = random.Random(seed)
    asked = [calls.any_call(rng) for _ in range(rng.randint(1, 48))]
    for call, answer in zip(asked, answers(engine, asked), strict=True):
        assert equal(answer, answers(on_cpu, [call])[0]), call


def test_small_attention_of_one_kind_becomes_one_call(engine, monkeypatch):
    computed = []
    attend = rope_core.attend

    def record(call, backend):
        computed.append(call)
        return attend(call, backend)

    monkeypatch.setattr(rope_core, "attend", record)
    rng = random.Random(1)
    asked = [attention(rng.randint(1, 30)) for _ in range(5)]
    q = torch.randn(2, 3, 2, 64)
    asked.append(Attend(q, q, q, ROPE))
    together = answers(engine, asked)
    (packed,) = computed
    assert packed.cu_seqlens_k is packed.cu_seqlens_q, "queries and keys are still of one side"
    assert packed.q_positions is packed.k_positions
    assert len(packed.cu_seqlens_q) == 8
    for call, answer in zip(asked, together, strict=True):
        assert equal(answer, answers(engine, [call])[0])
    assert all(call.cu_seqlens_q is not None for call in computed), "alone in the form of a pack"


def test_a_neighbour_of_nan_is_answered_as_alone(engine, monkeypatch):
    # as on a GPU, where no backend looks at values to decline
    monkeypatch.setattr(rope_core.backends, "BACKENDS", (rope_core.backends.eager,))
    asked = [attention(length) for length in (5, 9, 7)]
    asked[1].v[0, 3] = torch.nan
    together = answers(engine, asked)
    for call, answer in zip(asked[::2], together[::2], strict=True):
        assert equal(answer, answers(engine, [call])[0])
        assert answer.out.isfinite().all()
    assert together[1].out.isnan().any()


def test_what_keeps_a_call_out_of_a_pack_is_its_own(engine):
    small, large = attention(8), attention(2000)
    masked = Attend(small.q, small.q, small.q, ROPE, mask=torch.ones(8, 8).bool())
    assert engine.job(small).pack_key is not None
    assert engine.job(large).pack_key is engine.job(masked).pack_key is None
    assert engine.job(large).batch_key != engine.job(large).batch_key, "runs alone"


class Recorder:
    """Stands for a backend of the device, which reads no value."""

    name = "recorder"

    def __init__(self) -> None:
        self.works: list = []

    def why_not(self, work: object, named: bool) -> None:
        return None

    def run(self, work: Attention | Rotation | Merging) -> tuple[torch.Tensor, ...]:
        self.works.append(work)
        match work:
            case Rotation():
                return work.outs
            case Attention():
                return work.new_out()
            case Merging():
                return work.out[0], work.lse[0]


@pytest.fixture
def recorder(monkeypatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(rope_core.backends, "BACKENDS", (recorder,))
    monkeypatch.setattr(rope_core.backends.fused, "unavailable", lambda _: "there is no GPU")
    return recorder


@pytest.fixture
def on_meta() -> Engine:
    driver = MetaDriver()
    return engine_of(accelerator(driver, BufferPool(2**28, driver)))


def packed(masked: bool, num_tokens: int = 7) -> Attend:
    q = torch.randn(num_tokens, 2, 64)
    ends = torch.tensor([0, 3, num_tokens])
    mask = torch.ones(num_tokens, num_tokens).bool() if masked else None
    return Attend(q, q, q, ROPE, cu_seqlens_q=ends, cu_seqlens_k=ends, mask=mask)


@pytest.mark.parametrize(
    "asked",
    [[attention(5), attention(9)], [packed(False), packed(False)], [packed(True)]],
    ids=["batch", "packed", "alone"],
)
def test_cu_seqlens_are_on_the_device_and_no_value_is_read_from_it(on_meta, recorder, asked):
    answers(on_meta, asked)
    (work,) = (each for each in recorder.works if isinstance(each, Attention))
    ends_q, ends_k = work.cu_seqlens
    assert ends_q.device.type == ends_k.device.type == "meta"
    assert ends_q is ends_k, "one copy of what is the same"
    assert len(ends_q) == len(work.lengths[0]) + 1


def test_cu_seqlens_of_queries_and_keys_that_differ_are_both_on_the_device(on_meta, recorder):
    q = torch.randn(1, 3, 2, 64)
    k = torch.randn(1, 9, 2, 64)
    answers(on_meta, [Attend(q, k, k, ROPE)] * 2)
    ends = recorder.works[-1].cu_seqlens
    assert [each.device.type for each in ends] == ["meta", "meta"]
    assert ends[0] is not ends[1]
    assert recorder.works[-1].lengths == ((3, 3), (9, 9))


def test_rotations_of_packed_tokens_count_on_the_device(on_meta, recorder, monkeypatch):
    moved_to = []
    count_up = rope_core.ragged.count_up

    def record(length, cu_seqlens, device):
        moved_to.append(cu_seqlens.device.type)
        return count_up(length, cu_seqlens, device)

    monkeypatch.setattr(rope_core.ragged, "count_up", record)
    q = torch.zeros(900, 8, 64)  # more than a pack takes
    answers(on_meta, [Rotate(q, None, ROPE, None, torch.tensor([0, 100, 900]))])
    assert moved_to == ["meta"]


@pytest.mark.parametrize("kind", [*dict.fromkeys(calls.KINDS)], ids=lambda kind: kind.__name__)
def test_no_kind_of_call_reads_a_value_from_the_device(on_meta, recorder, kind):
    rng = random.Random(4)
    for _ in range(4):
        assert len(answers(on_meta, [kind(rng) for _ in range(3)])) == 3


def test_a_small_input_beside_a_large_body_is_a_copy_of_its_own(driver, on_cpu):
    buffer_pool = BufferPool(2**28, driver)
    buffer_pool.pin_ladder()
    engine = engine_of(accelerator(driver, buffer_pool))
    body = torch.frombuffer(buffer_pool.lease(2**22), dtype=torch.float32)
    body.copy_(torch.randn(body.shape))
    q = body[2 : 2 + 2**19].view(-1, 8, 64)
    call = Rotate(q, None, ROPE, None, torch.tensor([0, 5, len(q)]))
    assert equal(answers(engine, [call])[0], answers(on_cpu, [call])[0])
    assert driver.sources[0] == q.data_ptr(), "not staged"
    assert driver.log.count("bring") == 2


def test_moving_a_call_runs_no_check_again(engine, monkeypatch):
    asked = [calls.attention(random.Random(2)), calls.rotation(random.Random(2)), attention()]
    jobs = [engine.job(call) for call in asked]
    for kind in (Attend, Rotate):
        monkeypatch.setattr(kind, "__post_init__", lambda _: pytest.fail("checked again"))
    assert len(engine.run(jobs).results) == 3


def test_answers_stay_as_they_are_while_later_runs_go_on(engine, on_cpu):
    large = [rotation(900 + i, i) for i in range(4)]  # answers in pinned memory
    small = [rotation(5, i) for i in range(4)]
    kept = [(call, answers(engine, [call])[0]) for call in large + small]
    for i in range(20):
        answers(engine, [rotation(1000, -i), rotation(3, -i)])
    for call, answer in kept:
        assert equal(answer, answers(on_cpu, [call])[0])


def test_pinned_memory_is_used_again(engine, driver):
    for length in (5, 600, 5, 700):
        answers(engine, [rotation(length)])
    pinned = driver.num_pins
    for i in range(30):
        answers(engine, [rotation(500 + 7 * i)])
        answers(engine, [rotation(i)])
    assert driver.num_pins == pinned


def test_a_large_body_is_copied_from_where_it_lies(driver, on_cpu):
    buffer_pool = BufferPool(2**28, driver)
    buffer_pool.pin_ladder()
    engine = engine_of(accelerator(driver, buffer_pool))
    body = torch.frombuffer(buffer_pool.lease(2**22), dtype=torch.float32)
    body.copy_(torch.randn(body.shape))
    q = body[2 : 2 + 2**19].view(1, -1, 8, 64)  # after a header of 8 bytes
    k = body[2 + 2**19 : 2 + 2**19 + 2**18].view(1, -1, 4, 64)
    call = Rotate(q, k, ROPE)
    (answer,) = answers(engine, [call])
    assert driver.sources[0] == q.data_ptr()
    assert equal(answer, answers(on_cpu, [call])[0])
    apart = Rotate(q, k.clone(), ROPE)
    assert equal(answers(engine, [apart])[0], answer)
    crooked = Rotate(body[3 : 3 + 2**19].view(q.shape), body[-(2**18) :].view(k.shape), ROPE)
    assert equal(answers(engine, [crooked])[0], answers(on_cpu, [crooked])[0])
    assert driver.sources[-2] not in (crooked.q.data_ptr(), crooked.k.data_ptr()), "not aligned"


def test_a_small_answer_does_not_hold_the_memory_of_its_run(engine, driver):
    held = []
    for i in range(50):
        held.append(answers(engine, [rotation(2, i)]))
    assert driver.num_pins <= 2


def test_copying_and_computing_have_their_times(engine, driver):
    driver.fault = lambda step, _: time.sleep(0.02) if step == "compute" else None
    run = engine.run([engine.job(rotation(5))])
    assert 0 < run.copy_s < 1
    assert 0 < run.compute_s < 1


def test_the_next_run_is_brought_while_this_one_computes(engine, driver):
    computing, go, brought = threading.Event(), threading.Event(), threading.Event()

    def fault(step: str, _: int) -> None:
        if step == "compute" and not computing.is_set():
            computing.set()
            assert go.wait(10)
        elif step == "bring" and computing.is_set():
            brought.set()

    driver.fault = fault
    with ThreadPoolExecutor(2) as max_inflight:
        first = max_inflight.submit(answers, engine, [rotation(5, 1)])
        assert computing.wait(10)
        second = max_inflight.submit(answers, engine, [rotation(5, 2)])
        assert brought.wait(10), "it does not wait for the first"
        assert driver.log == ["bring", "compute", "bring"]
        go.set()
        assert len(first.result(10)) == len(second.result(10)) == 1
    assert driver.log.index("fetch") > driver.log.index("computed")
    assert sorted(driver.log[3:5]) != ["compute", "compute"], "one computes at a time"


async def batching(engine: Engine, asked: list, failures: list) -> list:
    with ThreadPoolExecutor(2) as threads:
        batcher: Batcher = Batcher(
            engine.run,
            threads,
            max_inflight=engine.device.capabilities.max_inflight,
            inline=engine.inline,
            watchdog_timeout_s=engine.watchdog_timeout_s,
            on_failure=failures.append,
            max_batch_tokens=2**16,
            max_batch_bytes=2**26,
            max_queue_calls=2000,
            metrics=Metrics(),
        )
        until = time.monotonic() + 60
        entries = [batcher.submit(engine.job(c), until, lambda _: None) for c in asked]
        waiters = (entry.future for entry in entries)
        return await asyncio.gather(*waiters, return_exceptions=True)


async def test_of_many_calls_only_those_fail_that_are_too_large_for_memory(engine, driver, on_cpu):
    def fault(step: str, num_bytes: int) -> None:
        if step == "allocate" and num_bytes > 3 * 2**20:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 13.37 GiB")

    driver.fault = fault
    rng = random.Random(5)
    asked = [rotation(rng.choice([1600, *range(1, 60)]), i) for i in range(200)]
    large = [len(call.q[0]) == 1600 for call in asked]
    got = await batching(engine, asked, [])
    assert sum(large) > 0
    for call, is_large, answer in zip(asked, large, got, strict=True):
        if is_large:
            assert isinstance(answer, DeviceFull)
            assert "GiB" not in str(answer)
        else:
            assert equal(answer.result, answers(on_cpu, [call])[0])
    assert driver.num_emptied >= sum(large)


def test_memory_that_another_run_has_is_waited_for(engine, driver):
    """A call that fits alone is not refused because of its neighbour in the other lane."""
    first_in, tried, go = threading.Event(), threading.Event(), threading.Event()
    main = threading.get_ident()

    def fault(step: str, _: int) -> None:
        if threading.get_ident() != main:
            if step == "compute":
                first_in.set()
                assert go.wait(10)
        elif step == "allocate" and not tried.is_set():
            tried.set()
            threading.Timer(0.05, go.set).start()
            raise torch.OutOfMemoryError("CUDA out of memory")

    driver.fault = fault
    with ThreadPoolExecutor(1) as lane:
        first = lane.submit(answers, engine, [rotation(5)])
        assert first_in.wait(10)
        assert len(answers(engine, [rotation(6)])) == 1
        assert len(first.result(10)) == 1
    assert driver.log.count("fetch") == 2
    assert driver.log.index("fetch") < len(driver.log) - 3, "the first was over"


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, ValueError])
def test_a_failure_lets_go_of_the_tensors_of_its_run(engine, kind):
    seen = []

    def compute(*_, **__):
        tensor = torch.zeros(1000)
        seen.append(weakref.ref(tensor))
        raise kind("no")

    engine._compute = compute
    gc.collect()
    gc.disable()
    try:
        with pytest.raises((DeviceFull, ValueError)) as failure:
            answers(engine, [rotation(5)])
        assert all(ref() is None for ref in seen)
        assert failure.value.__context__ is None
    finally:
        gc.enable()


async def test_a_failure_that_is_not_the_devices_is_its_calls_alone(engine, driver, monkeypatch):
    rotate = rope_core.rotate

    def fragile(call, out, backend):
        if (call.q == 13).any():
            raise RuntimeError("CUDA error: but of no consequence")
        return rotate(call, out, backend)

    monkeypatch.setattr(rope_core, "rotate", fragile)
    failures: list[Exception] = []
    got = await batching(engine, [rotation(3, i) for i in range(10, 18)], failures)
    assert [isinstance(answer, RuntimeError) for answer in got] == [i == 3 for i in range(8)]
    assert failures == []


@pytest.mark.parametrize("step", ["bring", "compute", "fetch"])
async def test_a_lost_device_answers_all_calls_once_and_runs_no_more(engine, driver, step):
    def fault(at: str, _: int) -> None:
        if at == step and driver.log.count(step) == 3:
            driver.lose()

    driver.fault = fault
    failures: list[Exception] = []
    asked = [rotation(600, i) for i in range(12)]  # each in a run of its own
    got = await batching(engine, asked, failures)
    lost = [isinstance(answer, DeviceLost) for answer in got]
    assert 1 <= lost.count(False) <= 3
    assert all(lost[4:])
    assert [type(failure) for failure in failures] == [DeviceLost]
    with pytest.raises(DeviceLost):
        answers(engine, [rotation(1)])


def test_only_a_device_that_may_hang_is_watched_over(engine):
    on_cpu = engine_of(Cpu(BufferPool(2**20)))
    assert on_cpu.watchdog_timeout_s([on_cpu.job(rotation(5))]) is None
    assert engine.watchdog_timeout_s([engine.job(rotation(5))]) == 30


def test_scores_take_time_however_narrow_heads_are():
    engine = engine_of(Cpu(BufferPool(2**20)))
    wide, narrow = (torch.zeros(1, 1, 1).expand(4_000, 16, width) for width in (64, 1))
    seconds = [engine.job(Attend(x, x, x, None)).seconds for x in (wide, narrow)]
    assert seconds[1] > seconds[0] / 6


def test_an_estimate_has_the_copies_of_a_call_both_ways(engine):
    fastest_link = 6.4e10  # bytes a second each way: PCI Express 5, 16 lanes
    job = engine.job(rotation(2000))
    assert job.seconds > (job.num_bytes + job.answer_bytes) / fastest_link
