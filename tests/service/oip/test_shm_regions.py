"""Regions of shared memory: which are registered, and which requests are refused."""

import os
import socket
from pathlib import Path

import pytest

from service.errors import Overloaded
from service.oip.errors import AlreadyExists, BadRegion, SharedMemoryOff, UnknownRegion, describe
from service.oip.shm import registry
from service.oip.shm.posix import SHM_DIR
from service.oip.shm.registry import Region, SharedMemoryRegistry
from tests.service.oip.shared_objects import BYTES, SIZE, kind_of, num_open, write

pytestmark = pytest.mark.skipif(not Path(SHM_DIR).is_dir(), reason="there is no shared memory here")


def test_every_call_is_refused_without_a_prefix(folder):
    key = folder.make()
    for prefix in (None, "", "/"):
        regions = SharedMemoryRegistry(prefix)
        assert not regions.enabled
        for call in (
            lambda regions=regions: regions.register("r", key, 0, 1),
            lambda regions=regions: regions.unregister(),
            lambda regions=regions: regions.status(),
            lambda regions=regions: regions.slice("r", 0, 1).read(),
            lambda regions=regions: write(regions, "r", 0, b"1"),
        ):
            with pytest.raises(SharedMemoryOff):
                call()
    assert SharedMemoryRegistry(folder.prefix).enabled


def test_status_lists_the_registered_regions(folder, regions):
    key = folder.make()
    assert regions.status() == []
    regions.register("a", key, 1, 2)
    regions.register("b", key.removeprefix("/"), 0, SIZE)
    a, b = Region("a", key, 1, 2), Region("b", key[1:], 0, SIZE)
    assert regions.status() == [a, b]
    assert regions.status("b") == [b]
    regions.unregister("b")
    regions.unregister("never there")
    assert regions.status() == [a]
    for call in (regions.status, lambda name: regions.slice(name, 0, 1).read()):
        with pytest.raises(UnknownRegion, match="b"):
            call("b")
    regions.unregister()
    assert regions.status() == []
    regions.register("a", key, 0, 1)  # a name that is free again


def test_a_name_is_registered_once(folder, regions):
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


def test_a_region_is_not_empty_and_lies_within_its_object(folder, regions):
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


def test_objects_without_the_prefix_all_get_the_same_error(folder):
    """Whether they exist or not, and what they are: the same words."""
    regions = SharedMemoryRegistry(folder.prefix + "mine")
    there, link = folder.make("other"), folder.path("link")
    link.symlink_to("/etc/passwd")
    folder.path("folder").mkdir(exist_ok=True)
    texts = set()
    for name in ("other", "link", "folder", "nothing"):
        key = folder.prefix + name
        with pytest.raises(BadRegion) as refused:
            regions.register("r", key, 0, 1)
        texts.add(str(refused.value).replace(key, ""))
    assert len(texts) == 1
    assert folder.path("other").read_bytes() == BYTES, there


def test_why_an_object_cannot_be_registered(folder, regions):
    with pytest.raises(BadRegion, match="is missing"):
        regions.register("r", folder.prefix + "nothing", 0, 1)
    assert not folder.path("nothing").exists()
    with pytest.raises(BadRegion, match="File name too long"):
        regions.register("r", folder.prefix + "x" * 5000, 0, 1)
    assert regions.status() == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may all")
def test_an_object_of_another_user_says_permission(folder, regions):
    key = folder.make("closed")
    folder.path("closed").chmod(0o400)
    with pytest.raises(BadRegion, match="permission"):
        regions.register("r", key, 0, 1)


def test_an_object_that_may_not_be_opened_says_permission(folder, regions, monkeypatch):
    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(BadRegion, match="has no permission"):
        regions.register("r", folder.prefix + "x", 0, 1)


def test_links_folders_pipes_and_sockets_are_refused(folder, regions):
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


def test_the_number_of_regions_is_limited(folder, monkeypatch):
    monkeypatch.setattr(registry, "MAX_REGIONS", 3)
    regions, key = SharedMemoryRegistry(folder.prefix), folder.make()
    for i in range(3):
        regions.register(str(i), key, 0, 1)
    with pytest.raises(Overloaded, match="3 regions"):
        regions.register("r", key, 0, 1)
    regions.unregister("0")
    regions.register("r", key, 0, 1)
    regions.close()


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
    got, _, body, *_ = describe(failure)
    assert (got, body) == (status, b'{"error":"%s"}' % str(failure).encode())
