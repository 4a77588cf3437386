"""Shared memory: what is written is read, and nothing beyond; whatever clients do to it."""

import os
import random
import socket
import subprocess
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Overloaded
from service.oip.errors import AlreadyExists, BadRegion, SharedMemoryOff, UnknownRegion, describe
from service.oip.shm import registry
from service.oip.shm.posix import SHM_DIR
from service.oip.shm.registry import Region, SharedMemoryRegistry

pytestmark = pytest.mark.skipif(not Path(SHM_DIR).is_dir(), reason="there is no shared memory here")

SIZE = 4096 * 3
BYTES = random.Random(0).randbytes(SIZE)


class Folder:
    """Objects of one test, by names that start with a prefix of its own."""

    def __init__(self) -> None:
        self.prefix = f"rope_test_{uuid.uuid4().hex[:12]}_"

    def path(self, name: str = "x") -> Path:
        return Path(SHM_DIR) / (self.prefix + name)

    def make(self, name: str = "x", content: bytes = BYTES) -> str:
        self.path(name).write_bytes(content)
        return "/" + self.prefix + name

    def clear(self) -> None:
        for path in Path(SHM_DIR).glob(f"*{self.prefix}*"):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def write(regions, name, offset, data):
    regions.slice(name, offset, len(data)).write(data)


@pytest.fixture(scope="module")
def folder():
    made = Folder()
    yield made
    made.clear()


@pytest.fixture
def regions(folder):
    made = SharedMemoryRegistry(folder.prefix)
    yield made
    made.close()


def num_open() -> int:
    return len(os.listdir("/proc/self/fd"))


def kind_of(value: object) -> str:
    return type(value).__name__


@given(
    offset=st.integers(0, SIZE - 1),
    data=st.data(),
    kind=st.sampled_from([bytes, bytearray, memoryview]),
)
def test_what_is_written_is_read_and_nothing_beside_it_changes(folder, offset, data, kind):
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
def test_nothing_outside_of_a_region_is_read_or_written(folder, offset, size, at, length):
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


def test_what_is_read_is_a_copy(folder, regions):
    key = folder.make()
    regions.register("r", key, 0, SIZE)
    read = regions.slice("r", 0, SIZE).read()
    with folder.path().open("r+b") as file:
        file.write(bytes(SIZE))
    assert read == BYTES
    assert regions.slice("r", 0, SIZE).read() == bytes(SIZE)


def test_off_is_off(folder):
    key = folder.make()
    for prefix in (None, "", "/"):
        regions = SharedMemoryRegistry(prefix)
        assert not regions.enabled
        for call in (
            lambda regions=regions: regions.register("r", key, 0, 1),
            lambda regions=regions: regions.unregister(None),
            lambda regions=regions: regions.status(None),
            lambda regions=regions: regions.slice("r", 0, 1).read(),
            lambda regions=regions: write(regions, "r", 0, b"1"),
        ):
            with pytest.raises(SharedMemoryOff):
                call()
    assert SharedMemoryRegistry(folder.prefix).enabled


def test_status_tells_what_was_registered(folder, regions):
    key = folder.make()
    assert regions.status(None) == []
    regions.register("a", key, 1, 2)
    regions.register("b", key.removeprefix("/"), 0, SIZE)
    a, b = Region("a", key, 1, 2), Region("b", key[1:], 0, SIZE)
    assert regions.status(None) == [a, b]
    assert regions.status("b") == [b]
    regions.unregister("b")
    regions.unregister("never there")
    assert regions.status(None) == [a]
    for call in (regions.status, lambda name: regions.slice(name, 0, 1).read()):
        with pytest.raises(UnknownRegion, match="b"):
            call("b")
    regions.unregister(None)
    assert regions.status(None) == []
    regions.register("a", key, 0, 1)  # a name that is free again


def test_a_name_is_used_once(folder, regions):
    key = folder.make()
    regions.register("r", key, 0, SIZE)
    for arguments in ((key, 0, SIZE), (key, 1, 1), ("/not allowed", 0, 1)):
        with pytest.raises(AlreadyExists, match="r is registered already"):
            regions.register("r", *arguments)
    assert regions.slice("r", 0, SIZE).read() == BYTES


@pytest.mark.parametrize("name", ["", "x" * 257, "a\nb", "a\0", "\ud800", None, 1, ["r"], {}])
def test_a_name_is_short_text(folder, regions, name):
    with pytest.raises(BadRegion, match="a region's name"):
        regions.register(name, folder.make(), 0, 1)


@pytest.mark.parametrize(
    "number", [-1, True, 1.0, "1", None, [1], 2**63, 10**5000, float("nan")], ids=kind_of
)
def test_sizes_and_offsets_are_natural_numbers(folder, regions, number):
    key = folder.make()
    for arguments in ((number, 1), (0, number)):
        with pytest.raises(BadRegion, match="must be a number of bytes"):
            regions.register("r", key, *arguments)
    regions.register("r", key, 0, SIZE)
    for arguments in ((number, 1), (0, number)):
        with pytest.raises(BadRegion, match="must be a number of bytes"):
            regions.slice("r", *arguments)


def test_a_region_has_bytes_and_its_object_has_them_all(folder, regions):
    key = folder.make()
    with pytest.raises(BadRegion, match="byte_size"):
        regions.register("r", key, 0, 0)
    for offset, size in ((0, SIZE + 1), (SIZE, 1), (2**63 - 1, 2**63 - 1)):
        with pytest.raises(BadRegion, match=f"too small: it has {SIZE} bytes"):
            regions.register("r", key, offset, size)
    regions.register("r", key, 0, SIZE)


@pytest.mark.parametrize(
    "wrong",
    [
        "//{0}x",
        "{0}../{0}x",
        "{0}..",
        "../shm/{0}x",
        "/dev/shm/{0}x",
        "{0}x/",
        "{0}x\0",
        "{0}\ud800",
        "x{0}",
        "/",
        "//",
        "",
        ".",
        "..",
        "/etc/passwd",
        "../../etc/passwd",
    ],
)
def test_a_key_is_one_name_with_the_prefix(folder, regions, wrong):
    folder.make()
    before = num_open()
    with pytest.raises(BadRegion, match="is not allowed: it must be one name") as refused:
        regions.register("r", wrong.format(folder.prefix), 0, 1)
    assert str(refused.value).isprintable()
    assert num_open() == before


@pytest.mark.parametrize("wrong", [None, 1, 10**5000, b"x", ["x"], {}], ids=kind_of)
def test_a_key_is_text(regions, wrong):
    with pytest.raises(BadRegion, match="a key must be text"):
        regions.register("r", wrong, 0, 1)


def test_nothing_is_learned_of_objects_of_other_names(folder):
    """Whether they exist or not, and what they are: the same words."""
    regions = SharedMemoryRegistry(folder.prefix + "mine")
    there, link = folder.make("other"), folder.path("link")
    link.symlink_to("/etc/passwd")
    folder.path("folder").mkdir(exist_ok=True)
    told = set()
    for name in ("other", "link", "folder", "nothing"):
        key = folder.prefix + name
        with pytest.raises(BadRegion) as refused:
            regions.register("r", key, 0, 1)
        told.add(str(refused.value).replace(key, ""))
    assert len(told) == 1
    assert folder.path("other").read_bytes() == BYTES, there


def test_why_an_object_cannot_be_registered(folder, regions):
    with pytest.raises(BadRegion, match="is missing"):
        regions.register("r", folder.prefix + "nothing", 0, 1)
    assert not folder.path("nothing").exists()
    with pytest.raises(BadRegion, match="File name too long"):
        regions.register("r", folder.prefix + "x" * 5000, 0, 1)
    assert regions.status(None) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may all")
def test_an_object_of_another_user_says_permission(folder, regions):
    key = folder.make("closed")
    folder.path("closed").chmod(0o400)
    with pytest.raises(BadRegion, match="permission"):
        regions.register("r", key, 0, 1)


def test_permission_is_told_whoever_runs_this(folder, regions, monkeypatch):
    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(BadRegion, match="has no permission"):
        regions.register("r", folder.prefix + "x", 0, 1)


def test_what_is_no_shared_memory_object_is_refused_at_once(folder, regions):
    folder.make("target")
    folder.path("symbolic").symlink_to(folder.path("target"))
    folder.path("escape").symlink_to("/etc/passwd")
    folder.path("dangling").symlink_to(folder.path("nothing"))
    folder.path("directory").mkdir()
    os.mkfifo(folder.path("pipe"))
    os.link(folder.path("target"), folder.path("hard"))
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder.path("socket")))
        before = num_open()
        for name in ("symbolic", "escape", "dangling", "directory", "pipe", "hard", "socket"):
            with pytest.raises(BadRegion, match="is not a shared memory object"):
                regions.register("r", folder.prefix + name, 0, 1)
    assert num_open() <= before
    assert not folder.path("nothing").exists()


def test_an_object_cut_short_is_an_error_and_is_not_made_longer(folder, regions):
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


def test_an_object_cut_short_again_and_again_is_read_whole_or_not_at_all(folder, regions):
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


def test_an_unlinked_object_is_still_the_regions(folder, regions):
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


def test_short_reads_and_writes_go_on(folder, regions, monkeypatch):
    key = folder.make("short")
    regions.register("r", key, 0, SIZE)
    pread, pwrite = os.pread, os.pwrite
    monkeypatch.setattr(os, "pread", lambda fd, n, at: pread(fd, min(n, 1000), at))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:1000], at))
    assert regions.slice("r", 1, SIZE - 1).read() == BYTES[1:]
    write(regions, "r", 1, BYTES[:-1])
    assert folder.path("short").read_bytes() == BYTES[:1] + BYTES[:-1]


def test_a_full_machine_is_an_error_of_the_region(folder, regions, monkeypatch):
    regions.register("r", folder.make(), 0, SIZE)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(BadRegion, match="region r cannot be written: No space left"):
        write(regions, "r", 0, b"1")


def test_regions_are_bounded(folder, monkeypatch):
    monkeypatch.setattr(registry, "MAX_REGIONS", 3)
    regions, key = SharedMemoryRegistry(folder.prefix), folder.make()
    for i in range(3):
        regions.register(str(i), key, 0, 1)
    with pytest.raises(Overloaded, match="3 regions"):
        regions.register("r", key, 0, 1)
    regions.unregister("0")
    regions.register("r", key, 0, 1)
    regions.close()


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
    regions.unregister(None)
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


def test_threads_read_what_they_registered_while_others_unregister(folder):
    """A read meets its own region or none, never what another has opened since by its number."""
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
            assert {region.key for region in regions.status(None)} <= {*keys}
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
    asked = np.arange(12, dtype=np.float32).reshape(3, 4)
    region = shm.create_shared_memory_region("input", key, 2 * asked.nbytes)
    try:
        shm.set_shared_memory_region(region, [asked])
        regions.register("input", key, 0, 2 * asked.nbytes)
        assert regions.slice("input", 0, asked.nbytes).read() == asked.tobytes()
        write(regions, "input", asked.nbytes, memoryview(asked * 2).cast("B"))
        answer = shm.get_contents_as_numpy(region, np.float32, [3, 4], asked.nbytes)
        assert (answer == asked * 2).all()
        del answer
    finally:
        shm.destroy_shared_memory_region(region)
    assert regions.slice("input", 0, asked.nbytes).read() == asked.tobytes()


def test_the_clients_object_is_there_after_the_end_of_the_service(folder):
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


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (UnknownRegion("no region x"), 404),
        (AlreadyExists("x is registered already"), 400),
        (BadRegion("too small"), 400),
        (SharedMemoryOff(), 501),
    ],
)
def test_failures_have_their_status(failure, status):
    got, _, body = describe(failure)
    assert (got, body) == (status, b'{"error":"%s"}' % str(failure).encode())
