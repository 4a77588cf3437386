"""Regions of shared memory: what is written is read, and nothing beyond."""

import os
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.oip.errors import AlreadyExists, BadRegion, UnknownRegion
from service.oip.shm.posix import SHM_DIR
from service.oip.shm.registry import SharedMemoryRegistry
from tests.service.oip.shared_objects import BYTES, SIZE, num_open, write

pytestmark = pytest.mark.skipif(
    not Path(SHM_DIR).is_dir(), reason="this system has no shared memory"
)


@given(
    offset=st.integers(0, SIZE - 1),
    data=st.data(),
    kind=st.sampled_from([bytes, bytearray, memoryview]),
)
def test_a_write_changes_its_bytes_only(folder, offset, data, kind):
    folder.make()
    size = data.draw(st.integers(1, SIZE - offset))
    at = data.draw(st.integers(0, size))
    new = data.draw(st.binary(max_size=min(size - at, 64)))
    regions = SharedMemoryRegistry(folder.prefix)
    regions.register("r", folder.prefix + "x", offset, size)
    assert regions.slice("r", 0, size).read() == BYTES[offset : offset + size]
    write(regions, "r", at, kind(new))
    assert regions.slice("r", at, len(new)).read() == new
    whole = BYTES[: offset + at] + new + BYTES[offset + at + len(new) :]
    assert folder.path().read_bytes() == whole
    regions.close()


@given(
    offset=st.integers(0, SIZE - 1),
    size=st.integers(1, SIZE),
    at=st.integers(-10, 2 * SIZE) | st.integers(-(2**70), 2**70),
    length=st.integers(-10, 2 * SIZE) | st.integers(-(2**70), 2**70),
)
def test_bytes_outside_of_a_region_are_not_read_or_written(folder, offset, size, at, length):
    folder.make()
    regions = SharedMemoryRegistry(folder.prefix)
    if offset + size > SIZE:
        with pytest.raises(BadRegion, match="too small"):
            regions.register("r", folder.prefix + "x", offset, size)
        return
    regions.register("r", folder.prefix + "x", offset, size)
    if at >= 0 and length >= 0 and at + length <= size:
        assert regions.slice("r", at, length).read() == BYTES[offset + at : offset + at + length]
    else:
        with pytest.raises(BadRegion, match=r"within|from 0"):
            regions.slice("r", at, length).read()
        with pytest.raises(BadRegion, match=r"within|from 0"):
            write(regions, "r", at, bytes(max(size + 1 - max(at, 0), 1)))
    assert folder.path().read_bytes() == BYTES
    regions.close()


def test_a_read_returns_a_copy(folder, regions):
    key = folder.make()
    regions.register("r", key, 0, SIZE)
    read = regions.slice("r", 0, SIZE).read()
    with folder.path().open("r+b") as file:
        file.write(bytes(SIZE))
    assert read == BYTES
    assert regions.slice("r", 0, SIZE).read() == bytes(SIZE)


def test_a_truncated_object_is_an_error_and_is_not_made_longer(folder, regions):
    key = folder.make("cut")
    regions.register("r", key, 0, SIZE)
    os.truncate(folder.path("cut"), 100)
    assert regions.slice("r", 0, 100).read() == BYTES[:100]
    for call in (
        lambda: regions.slice("r", 0, 101).read(),
        lambda: regions.slice("r", 5000, 1).read(),
        lambda: write(regions, "r", 90, bytes(11)),
        lambda: write(regions, "r", SIZE - 1, b"1"),
    ):
        with pytest.raises(BadRegion, match="has become too small"):
            call()
    assert folder.path("cut").read_bytes() == BYTES[:100]
    os.truncate(folder.path("cut"), SIZE)
    assert regions.slice("r", 0, SIZE).read() == BYTES[:100] + bytes(SIZE - 100)


def test_an_object_that_is_truncated_meanwhile_is_read_whole_or_not_at_all(folder, regions):
    key = folder.make("cuts", bytes(2**20))
    regions.register("r", key, 0, 2**20)
    over = threading.Event()

    def cut() -> None:
        while not over.is_set():
            os.truncate(folder.path("cuts"), 1000)
            os.truncate(folder.path("cuts"), 2**20)

    with ThreadPoolExecutor(1) as pool:
        cutting = pool.submit(cut)
        outcomes = set()
        for _ in range(300):
            try:
                outcomes.add(regions.slice("r", 0, 2**20).read() == bytes(2**20))
                write(regions, "r", 0, bytes(2**20))
            except BadRegion:
                outcomes.add("cut")
        over.set()
        cutting.result()
    assert False not in outcomes


def test_a_region_keeps_an_unlinked_object(folder, regions):
    key = folder.make("gone")
    regions.register("r", key, 0, SIZE)
    folder.path("gone").unlink()
    folder.make("gone", bytes(SIZE))
    assert regions.slice("r", 0, SIZE).read() == BYTES
    write(regions, "r", 0, b"new")
    assert regions.slice("r", 0, 4).read() == b"new" + BYTES[3:4]
    assert folder.path("gone").read_bytes() == bytes(SIZE)


def test_a_span_outlives_its_registration(folder, regions):
    key = folder.make("span")
    regions.register("r", key, 10, 100)
    span = regions.slice("r", 5, 20)
    with pytest.raises(BadRegion, match="20 bytes are too small for 21"):
        span.write(bytes(21))
    regions.unregister("r")
    span.write(b"new")
    assert span.read() == b"new" + BYTES[18:35]
    assert folder.path("span").read_bytes() == BYTES[:15] + b"new" + BYTES[18:]


def test_short_reads_and_writes_are_continued(folder, regions, monkeypatch):
    key = folder.make("short")
    regions.register("r", key, 0, SIZE)
    pread, pwrite = os.pread, os.pwrite
    monkeypatch.setattr(os, "pread", lambda fd, n, at: pread(fd, min(n, 1000), at))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:1000], at))
    assert regions.slice("r", 1, SIZE - 1).read() == BYTES[1:]
    write(regions, "r", 1, BYTES[:-1])
    assert folder.path("short").read_bytes() == BYTES[:1] + BYTES[:-1]


def test_a_full_disk_is_an_error_of_the_region(folder, regions, monkeypatch):
    regions.register("r", folder.make(), 0, SIZE)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(BadRegion, match="region r cannot be written: No space left"):
        write(regions, "r", 0, b"1")


def test_no_descriptor_leaks(folder):
    key = folder.make()
    before = num_open()
    regions = SharedMemoryRegistry(folder.prefix)
    for i in range(20):
        regions.register(str(i), key, 0, SIZE)
    assert num_open() == before + 20
    for arguments in ((key, 0, SIZE + 1), (key, 0, 0), (key + "nothing", 0, 1), ("x", 0, 1)):
        with pytest.raises(BadRegion):
            regions.register("r", *arguments)
    for i in range(20):
        with pytest.raises(AlreadyExists):
            regions.register(str(i), key, 0, SIZE)
        regions.slice(str(i), 0, SIZE).read()
        write(regions, str(i), 0, BYTES)
    assert num_open() == before + 20
    regions.unregister("3")
    assert num_open() == before + 19
    regions.unregister()
    assert num_open() == before
    regions.register("r", key, 0, SIZE)
    regions.close()
    assert num_open() == before


def test_descriptors_are_not_inherited(folder, regions):
    regions.register("r", folder.make(), 0, SIZE)
    command = ["ls", "-l", "/proc/self/fd"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, close_fds=False)
    assert "pipe" in ran.stdout
    assert folder.prefix not in ran.stdout


def test_threads_read_their_own_regions_while_others_unregister(folder):
    """A read gets the bytes of its region or fails; another file may reuse the file descriptor."""
    num_threads, rounds = 8, 150
    contents = [bytes([i + 1]) * 50_000 for i in range(num_threads)]
    keys = [folder.make(f"thread{i}", content) for i, content in enumerate(contents)]
    before, regions = num_open(), SharedMemoryRegistry(folder.prefix)

    def work(i: int) -> int:
        chance, answered = random.Random(i), 0
        for _ in range(rounds):
            j = chance.randrange(num_threads)
            try:
                match chance.randrange(4):
                    case 0:
                        regions.register(str(j), keys[j], 0, len(contents[j]))
                    case 1:
                        regions.unregister(str(j) if chance.random() < 0.9 else None)
                    case 2:
                        write(regions, str(j), 100, contents[j][:1000])
                    case _:
                        assert regions.slice(str(j), 0, len(contents[j])).read() == contents[j]
                        answered += 1
            except (UnknownRegion, AlreadyExists):
                pass
            assert {region.key for region in regions.status()} <= {*keys}
        return answered

    with ThreadPoolExecutor(num_threads) as pool:
        answered = sum(pool.map(work, range(num_threads)))
    assert answered > 0
    for i, content in enumerate(contents):
        assert folder.path(f"thread{i}").read_bytes() == content
    regions.close()
    assert num_open() == before


def test_objects_of_tritonclient(folder, regions):
    shm = pytest.importorskip("tritonclient.utils.shared_memory")
    key = "/" + folder.prefix + "triton"
    data = np.arange(12, dtype=np.float32).reshape(3, 4)
    region = shm.create_shared_memory_region("input", key, 2 * data.nbytes)
    try:
        shm.set_shared_memory_region(region, [data])
        regions.register("input", key, 0, 2 * data.nbytes)
        assert regions.slice("input", 0, data.nbytes).read() == data.tobytes()
        write(regions, "input", data.nbytes, memoryview(data * 2).cast("B"))
        answer = shm.get_contents_as_numpy(region, np.float32, [3, 4], data.nbytes)
        assert (answer == data * 2).all()
        del answer
    finally:
        shm.destroy_shared_memory_region(region)
    assert regions.slice("input", 0, data.nbytes).read() == data.tobytes()


def test_an_object_outlives_the_service(folder):
    key = folder.make("kept")
    program = (
        "import sys; from service.oip.shm.registry import SharedMemoryRegistry;"
        "r = SharedMemoryRegistry(sys.argv[1]);"
        "r.register('r', sys.argv[2], 0, 100); r.slice('r', 0, 3).write(b'end')"
    )
    command = [sys.executable, "-c", program, folder.prefix, key]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not ran.stderr
    assert folder.path("kept").read_bytes() == b"end" + BYTES[3:]
