"""Triton's cache: kernels of the image, a full disk, a read-only one, a noexec one."""

import errno
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.conftest import ROOT

pytest.importorskip("triton")
from triton.runtime import cache

from service.kernel_builds import triton_cache
from service.kernel_builds.triton_cache import KernelCache

MANAGER = "service.kernel_builds.triton_cache:KernelCache"


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(triton_cache, "PREBUILT", tmp_path / "prebuilt")
    spare = tmp_path / "spare"
    spare.mkdir()
    monkeypatch.setattr(triton_cache, "_spare_folder", lambda: spare)
    return tmp_path / "cache"


def store(key, num_bytes=10):
    """Store one kernel as Triton's compiler does; return the paths of its files."""
    manager = KernelCache(key)
    group = {name: manager.put(b"x" * num_bytes, name) for name in ("k.cubin", "k.ttir", "k.json")}
    manager.put_group("k.json", group)
    return group


def found(key):
    """Return the sizes of a stored kernel's files, None where Triton would compile it."""
    group = KernelCache(key).get_group("k.json")
    return group and {name: os.path.getsize(path) for name, path in group.items()}


def test_what_a_load_does_not_need_is_stored_empty():
    store("A")
    assert found("A") == {"k.cubin": 10, "k.ttir": 0, "k.json": 10}


def test_prebuilt_kernels_come_before_the_cache(cache_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "prebuilt"))
    group = store("A", num_bytes=7)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(cache_dir))
    assert KernelCache("A").get_group("k.json") == group
    assert found("B") is None
    assert not (cache_dir / "A").exists()


def test_a_cache_that_cannot_be_made_is_empty(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file"))
    assert found("A") is None
    assert set(os.listdir(tmp_path / "spare")) == set()
    group = store("A")
    assert {os.path.dirname(path) for path in group.values()} == {str(tmp_path / "spare" / "A")}
    assert os.path.getsize(group["k.cubin"]) == 10


def test_a_disk_that_fills_up_during_a_write_leaves_a_complete_kernel(cache_dir, monkeypatch):
    put = cache.FileCacheManager.put

    def fail_in_cache(self, data, filename, binary=True):
        if self.cache_dir.startswith(str(cache_dir)) and filename == "k.json":
            partial = cache_dir / self.key / f"tmp.pid_{os.getpid()}_0"
            partial.mkdir()
            (partial / filename).write_text("{")
            raise OSError(errno.ENOSPC, "No space left on device")
        return put(self, data, filename, binary)

    monkeypatch.setattr(cache.FileCacheManager, "put", fail_in_cache)
    group = store("A")
    assert [os.path.getsize(path) for path in group.values()] == [10, 0, 10]
    assert sorted(os.listdir(cache_dir / "A")) == ["k.cubin", "k.ttir"]


def test_the_oldest_complete_kernels_are_removed_for_a_new_one(cache_dir, monkeypatch):
    for age, key in enumerate(("C", "B", "A")):
        store(key, num_bytes=100)
        os.utime(cache_dir / key / "__grp__k.json", (1_000 - age, 1_000 - age))
    KernelCache("building").put(b"x" * 100, "k.cubin")

    def disk_usage(folder):
        cubins = sum(path.stat().st_size for path in folder.glob("*/*.cubin"))
        return SimpleNamespace(free=triton_cache.MIN_FREE_BYTES + 250 - cubins)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    KernelCache("new")
    assert sorted(os.listdir(cache_dir)) == ["C", "building", "new"]


def in_a_mount(tmp_path, size, prepare, check="true", **variables):
    """Compile a kernel with Triton's cache on a small noexec tmpfs that only the child sees."""
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    mount = f"mount -t tmpfs -o noexec,size={size} none {mounted}"
    probe = subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip("mounting is not permitted here")
    compile_kernel = f"{sys.executable} -m tests.service.compile_kernel"
    command = f"{mount} && cd {mounted} && {prepare} && {compile_kernel} && {check}"
    variables = {
        "PYTHONPATH": str(ROOT),
        "TRITON_CACHE_DIR": str(mounted),
        "TRITON_INTERPRET": "0",
        **variables,
    }
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", command],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(shutil.which("unshare") is None, reason="there is no unshare here")
class TestFullDisk:
    FILL = "head -c 2000000 /dev/zero > other || true"

    def test_tritons_own_cache_fails(self, tmp_path):
        done = in_a_mount(tmp_path, "1m", self.FILL)
        assert "No space left on device" in done.stderr

    def test_a_kernel_is_built_in_the_temporary_folder(self, tmp_path):
        done = in_a_mount(tmp_path, "1m", self.FILL, TRITON_CACHE_MANAGER=MANAGER)
        assert done.returncode == 0, done.stderr
        built = json.loads(done.stdout)
        assert built["hits"] == [False]
        assert built["num_bytes"] > 0

    def test_old_kernels_are_removed_for_a_new_one(self, tmp_path):
        # with the old kernel 10 MiB are free: less than a build wants
        done = in_a_mount(
            tmp_path,
            "20m",
            "mkdir OLD && head -c 10000000 /dev/zero > OLD/k.cubin && touch OLD/__grp__k.json",
            "test ! -e OLD",
            TRITON_CACHE_MANAGER=MANAGER,
            TMPDIR=str(tmp_path / "mounted"),
        )
        assert done.returncode == 0, done.stderr
        assert "is kept in" not in done.stderr
