"""Slabs and the blocks of large memory below them."""

import gc
import threading
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.buffer_pool import BufferPool
from service.memory_blocks import UNIT_BYTES, Block, FreeBlocks, Region
from service.slab_pool import MIN_SLAB_BYTES, SlabPool

MIB = 2**20


def pool_of(max_idle_bytes: int = 2**22, large_idle_bytes: int = 2**30) -> SlabPool:
    return SlabPool(max_idle_bytes, BufferPool(large_idle_bytes))


def run_in_threads(work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def address_of(memory: memoryview) -> int:
    return np.frombuffer(memory, dtype=np.uint8).ctypes.data


@given(st.one_of(st.integers(0, 2**21), st.integers(2**21, 2**26)))
def test_a_slab_is_large_enough_aligned_writable_and_wastes_at_most_a_quarter(num_bytes):
    slab = pool_of().lease(num_bytes)
    assert num_bytes <= len(slab.memory) <= max(MIN_SLAB_BYTES, num_bytes * 5 / 4)
    assert slab.address == address_of(slab.memory)
    assert slab.address % 64 == 0
    assert slab.memory.format == "B"
    slab.memory[num_bytes - 1 : num_bytes] = b"x" * min(num_bytes, 1)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3 * MIB)), max_size=60))
def test_leased_slabs_never_share_memory(steps):
    pool, leased = pool_of(), []
    for number, (releases, num_bytes) in enumerate(steps):
        if releases and leased:
            slab, mark = leased.pop(num_bytes % len(leased))
            assert (slab.memory[0], slab.memory[-1]) == (mark, mark)
            del slab
            continue
        slab, mark = pool.lease(num_bytes), number % 256
        slab.memory[0] = slab.memory[-1] = mark
        leased.append((slab, mark))
    spans = sorted((slab.address, slab.address + len(slab.memory)) for slab, _ in leased)
    for (_, end), (start, _) in pairwise(spans):
        assert end <= start


@pytest.mark.parametrize("num_bytes", [1, 10_000, 2**19, 2**20 - 1, 2**20, 2**25 + 300])
def test_the_slab_that_returned_last_is_leased_first(num_bytes):
    pool = pool_of()
    slabs = [pool.lease(num_bytes) for _ in range(3)]
    addresses = [slab.address for slab in slabs]
    del slabs[1]
    assert pool.lease(num_bytes).address == addresses[1]


def test_a_large_slab_is_not_reused_while_a_slice_refers_to_it():
    pool = pool_of()
    slab = pool.lease(2**21)
    address, held = slab.address, slab.memory[5:9]
    del slab
    other = pool.lease(2**21)
    assert other.address != address
    del held
    assert pool.lease(2**21).address == address


def test_idle_small_slabs_are_bounded():
    pool = pool_of(max_idle_bytes=2**16)
    slabs = [pool.lease(2**14) for _ in range(9)]
    addresses = [slab.address for slab in slabs]
    while slabs:
        del slabs[0]
    kept = [pool.lease(2**14) for _ in range(4)]
    assert [slab.address for slab in kept] == addresses[3::-1]
    assert pool._idle_bytes == 0


def test_slabs_and_buffers_share_large_memory():
    buffer_pool = BufferPool(2**30)
    pool = SlabPool(2**20, buffer_pool)
    slab = pool.lease(32 * MIB)
    address = slab.address
    del slab
    memory = buffer_pool.lease(32 * MIB)
    assert address_of(memory) == address
    del memory
    assert pool.lease(32 * MIB).address == address


def test_threads_share_slabs():
    pool = pool_of(max_idle_bytes=2**20)

    def work() -> None:
        for step in range(2000):
            pool.lease(1000 * (1 + step % 5))

    run_in_threads(work)
    idle = sum(len(memory.view) for memories in pool._idle.values() for memory in memories)
    assert pool._idle_bytes == idle <= 2**20


def test_preallocated_memory_serves_all_sizes_and_is_kept(monkeypatch):
    buffer_pool = BufferPool(8 * MIB)
    buffer_pool.preallocate(64 * MIB)
    monkeypatch.setattr("service.buffer_pool.Region", None)  # memory of the system is not asked for
    for sizes in ([64 * MIB], [32 * MIB, 32 * MIB], [MIB] * 64, [9 * MIB, MIB + 1, 40 * MIB]):
        leases = [buffer_pool.lease(size) for size in sizes]
        assert len({address_of(memory) for memory in leases}) == len(sizes)
        del leases


def test_touched_memory_is_resident():
    region = Region(16 * MIB)
    before = resident_bytes()
    region.touch()
    assert resident_bytes() - before >= 15 * MIB


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_memory_above_the_limit_returns_to_the_system():
    buffer_pool = BufferPool(40 * MIB)
    leases = [buffer_pool.lease(16 * MIB) for _ in range(8)]
    for memory in leases:
        np.frombuffer(memory, dtype=np.uint8)[:] = 1
    del memory
    before = resident_bytes()
    leases.clear()
    assert before - resident_bytes() >= 80 * MIB


def test_all_that_was_split_merges_again():
    free, region = FreeBlocks(), Region(16 * UNIT_BYTES)
    free.put(Block(region, 0, 16 * UNIT_BYTES))
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [0, 2, 3, 1]):
        blocks = [free.take(size * UNIT_BYTES) for size in (5, 1, 7, 3)]
        assert free.num_bytes == 0
        assert free.take(1) is None
        for index in order:
            free.put(blocks[index])
        (whole,) = free
        assert (whole.offset, whole.size, whole.is_whole_region) == (0, 16 * UNIT_BYTES, True)


def test_the_smallest_block_that_fits_is_taken():
    free = FreeBlocks()
    for size in (8, 2, 4):
        free.put(Block(Region(size * UNIT_BYTES), 0, size * UNIT_BYTES))
    assert len(free.take(3 * UNIT_BYTES).region.buffer) == 4 * UNIT_BYTES


def test_memory_returns_when_its_thread_holds_the_lock():
    """The garbage collector may run amid a lease, and find a buffer that nothing refers to."""
    buffer_pool = BufferPool(2**30)
    memory = buffer_pool.lease(2**21)
    address = address_of(memory)
    with buffer_pool._lock:
        del memory
    assert address_of(buffer_pool.lease(2**21)) == address


def test_threads_share_a_pool():
    buffer_pool, failures = BufferPool(2**26), []

    def work() -> None:
        mark = threading.get_ident() % 256
        for step in range(300):
            memory = buffer_pool.lease(MIB * (1 + step % 3))
            memory[0] = memory[-1] = mark
            if (memory[0], memory[-1]) != (mark, mark):
                failures.append(step)

    run_in_threads(work)
    gc.collect()
    assert failures == []
    assert buffer_pool._free.num_bytes <= 2**26
    assert all(block.is_whole_region for block in buffer_pool._free)
