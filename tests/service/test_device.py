"""Runs on a device with its own memory: copies, packs, times, and answers equal to the CPU's."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
import torch

import rope_core
from rope_core import Attend, Rotate
from service.buffer_pool import BufferPool
from service.inference.engine import Engine
from tests.service import calls
from tests.service.engines import (
    ROPE,
    accelerator_engine,
    attention,
    cpu_engine,
    equal,
    rotation,
    run,
)
from tests.service.fake_driver import FakeDriver


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


@pytest.fixture
def engine(driver: FakeDriver) -> Engine:
    return accelerator_engine(driver)


@pytest.mark.parametrize("num_calls", [1, 2, 7, 40])
def test_a_run_makes_one_copy_in_and_one_copy_out(engine, driver, num_calls):
    rng = random.Random(num_calls)
    batch = [calls.any_call(rng) for _ in range(num_calls)]
    assert len({engine.job(call).batch_key for call in batch}) == 1, "they may share a run"
    assert len(run(engine, batch)) == num_calls
    assert driver.log == ["copy_to_device", "compute", "computed", "copy_to_host"]


@pytest.mark.parametrize("seed", range(12))
def test_results_of_a_mixed_run_are_bit_equal_to_the_cpu(engine, seed):
    rng = random.Random(seed)
    batch = [calls.any_call(rng) for _ in range(rng.randint(1, 48))]
    for call, result in zip(batch, run(engine, batch), strict=True):
        assert equal(result, run(cpu_engine(), [call])[0]), call


def test_small_attention_calls_of_one_key_become_one_call(engine, monkeypatch):
    computed = []
    attend = rope_core.attention.run_attend

    def record(call, backend):
        computed.append(call)
        return attend(call, backend)

    monkeypatch.setattr(rope_core.attention, "run_attend", record)
    rng = random.Random(1)
    batch = [attention(rng.randint(1, 30)) for _ in range(5)]
    q = torch.randn(2, 3, 2, 64)
    batch.append(Attend(q, q, q, ROPE))
    results = run(engine, batch)
    (packed,) = computed
    assert packed.cu_seqlens_k is packed.cu_seqlens_q, "queries and keys share their angles"
    assert packed.q_positions is packed.k_positions
    assert len(packed.cu_seqlens_q) == 8
    for call, result in zip(batch, results, strict=True):
        assert equal(result, run(engine, [call])[0])
    assert all(call.cu_seqlens_q is not None for call in computed), (
        "a single call is packed as well"
    )


def test_nan_in_one_call_does_not_change_its_neighbours(engine, monkeypatch):
    # as on a GPU, where no backend reads values in order to decline a call
    monkeypatch.setattr(rope_core.backends, "BACKENDS", (rope_core.backends.eager,))
    batch = [attention(length) for length in (5, 9, 7)]
    batch[1].v[0, 3] = torch.nan
    results = run(engine, batch)
    for call, result in zip(batch[::2], results[::2], strict=True):
        assert equal(result, run(engine, [call])[0])
        assert result.out.isfinite().all()
    assert results[1].out.isnan().any()


def test_large_calls_and_calls_with_a_mask_are_not_packed(engine):
    small, large = attention(8), attention(2000)
    masked = Attend(small.q, small.q, small.q, ROPE, mask=torch.ones(8, 8).bool())
    assert engine.job(small).pack_key is not None
    assert engine.job(large).pack_key is engine.job(masked).pack_key is None
    assert engine.job(large).batch_key != engine.job(large).batch_key, "each runs alone"


def test_a_large_body_is_copied_from_where_it_is(driver):
    engine, body = engine_with_body(driver)
    q = body[2 : 2 + 2**19].view(1, -1, 8, 64)  # after a header of 8 bytes
    k = body[2 + 2**19 : 2 + 2**19 + 2**18].view(1, -1, 4, 64)
    call = Rotate(q, k, ROPE)
    (result,) = run(engine, [call])
    assert driver.sources[0] == q.data_ptr()
    assert equal(result, run(cpu_engine(), [call])[0])
    in_two_buffers = Rotate(q, k.clone(), ROPE)
    assert equal(run(engine, [in_two_buffers])[0], result)


@pytest.mark.parametrize("k_start", [2**19 + 1, 3 * 2**18], ids=["unaligned", "far away"])
def test_tensors_that_one_copy_of_the_body_cannot_serve_are_staged(driver, k_start):
    engine, body = engine_with_body(driver)
    q, k = body[: 2**19].view(1, -1, 8, 64), body[k_start : k_start + 2**18].view(1, -1, 4, 64)
    call = Rotate(q, k, ROPE)
    assert equal(run(engine, [call])[0], run(cpu_engine(), [call])[0])
    assert driver.sources[0] not in (q.data_ptr(), k.data_ptr())


def test_small_inputs_beside_a_large_body_are_copied_separately(driver):
    engine, body = engine_with_body(driver)
    q = body[2 : 2 + 2**19].view(-1, 8, 64)
    call = Rotate(q, None, ROPE, None, torch.tensor([0, 5, len(q)]))
    assert equal(run(engine, [call])[0], run(cpu_engine(), [call])[0])
    assert driver.sources[0] == q.data_ptr(), "the body is not staged"
    assert driver.log.count("copy_to_device") == 2


def engine_with_body(driver: FakeDriver) -> tuple[Engine, torch.Tensor]:
    """Return an engine, and random float32 `[2**20]` in a pinned buffer of its pool."""
    buffer_pool = BufferPool(2**28, driver)
    buffer_pool.preallocate(0)
    body = torch.frombuffer(buffer_pool.lease(2**22), dtype=torch.float32)
    body.copy_(torch.randn(body.shape))
    return accelerator_engine(driver, buffer_pool), body


def test_moving_the_tensors_of_a_call_does_not_check_it_again(engine, monkeypatch):
    batch = [calls.attention(random.Random(2)), calls.rotation(random.Random(2)), attention()]
    jobs = [engine.job(call) for call in batch]
    for kind in (Attend, Rotate):
        monkeypatch.setattr(kind, "__post_init__", lambda _: pytest.fail("checked again"))
    assert len(engine.run(jobs).results) == 3


def test_copying_and_computing_are_timed_separately(engine, driver):
    driver.clock = count(1).__next__  # each stage lasts a second
    measured = engine.run([engine.job(rotation(5))])
    assert measured.compute_s == pytest.approx(1)
    assert 2 < measured.copy_s < 3, "in and out, and less than a second of packing"


def test_inputs_of_the_next_run_are_copied_while_one_computes(engine, driver):
    computing, go, copied = threading.Event(), threading.Event(), threading.Event()
    also_computing = threading.Event()

    def fault(step: str, _: int) -> None:
        if step == "compute" and not computing.is_set():
            computing.set()
            assert go.wait(10)
        elif step == "compute":
            also_computing.set()
        elif step == "copy_to_device" and computing.is_set():
            copied.set()

    driver.fault = fault
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(run, engine, [rotation(5, 1)])
        assert computing.wait(10)
        second = threads.submit(run, engine, [rotation(5, 2)])
        assert copied.wait(10), "the second run does not wait for the first"
        assert not also_computing.wait(0.05), "one computes at a time"
        assert driver.log == ["copy_to_device", "compute", "copy_to_device"]
        go.set()
        assert len(first.result(10)) == len(second.result(10)) == 1


def test_the_estimate_of_attention_counts_scores_of_narrow_heads():
    engine = cpu_engine()
    wide, narrow = (torch.zeros(1, 1, 1).expand(4_000, 16, width) for width in (64, 1))
    seconds = [engine.job(Attend(x, x, x, None)).seconds for x in (wide, narrow)]
    assert seconds[1] > seconds[0] / 6


def test_the_estimate_counts_copies_both_ways(engine):
    fastest_link = 6.4e10  # bytes a second each way: PCI Express 5, 16 lanes
    job = engine.job(rotation(2000))
    assert job.seconds > (job.num_bytes + job.answer_bytes) / fastest_link
