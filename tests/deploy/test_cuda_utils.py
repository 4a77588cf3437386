"""Triton's C extension is built without a GPU driver, and loaded without a compiler."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytest.importorskip("triton")
from deploy import build_cuda_utils

PYTHONPATH = f"{ROOT}{os.pathsep}{Path(build_cuda_utils.triton.__file__).parents[1]}"
CACHE_MANAGER = "service.kernel_builds.triton_cache:KernelCache"
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")


SCRIPT = (
    "import sys; sys.prefix = sys.argv[1];"
    "from triton.backends.nvidia.driver import CudaUtils;"
    "print(CudaUtils().load_binary)"
)
LOADED = "built-in function load_binary"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return a folder with a stub and an extension, laid out like sys.prefix of the image."""
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(folder / "triton"))
        patch.setenv("PYTHONPATH", PYTHONPATH)
        build_cuda_utils.build_stub(folder / "stub")
        build_cuda_utils.build_extension(folder / "stub")
    return folder


def load_extension(built, prefix, cache_dir, *, path, mount="true", **variables):
    """Load the extension in another process, with a stub in place of the mounted driver."""
    environment = {
        "PATH": str(path),
        "PYTHONPATH": PYTHONPATH,
        "LD_LIBRARY_PATH": str(built / "stub"),
        "TRITON_CACHE_DIR": str(cache_dir),
        **variables,
    }
    settings = " ".join(f"{name}={value}" for name, value in environment.items())
    load = f"{mount} && env {settings} {sys.executable} -c '{SCRIPT}' {prefix}"
    command = ["sh", "-c", load] if mount == "true" else ["unshare", "-m", "sh", "-c", load]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def without_compiler(tmp_path):
    programs = tmp_path / "programs"
    programs.mkdir()
    if file := shutil.which("file"):  # Triton's cache key depends on the output of this program
        (programs / "file").symlink_to(file)
    return programs


@needs_gcc
def test_built_extension_loads_without_a_compiler(built, tmp_path, without_compiler):
    assert [file.name.split(".")[0] for file in built.glob("triton/*/*")] == ["cuda_utils"]
    options = {"path": without_compiler, "TRITON_CACHE_MANAGER": CACHE_MANAGER}
    done = load_extension(built, built, tmp_path / "cache", **options)
    assert LOADED in done.stdout, done.stderr
    done = load_extension(built, tmp_path, tmp_path / "cache", **options)
    assert "Failed to find C compiler" in done.stderr


@needs_gcc
def test_built_extension_loads_with_a_noexec_cache_folder(built, tmp_path, without_compiler):
    cache_dir = tmp_path / "cache"
    cache_dir.mkdir()
    mount = f"mount -t tmpfs -o noexec none {cache_dir}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], check=False).returncode != 0:
        pytest.skip("mounting is not permitted")
    # without the cache manager, Triton cannot load an extension from this folder
    done = load_extension(built, tmp_path, cache_dir, path=os.environ["PATH"], mount=mount)
    assert "failed to map segment from shared object" in done.stderr
    options = {"path": without_compiler, "TRITON_CACHE_MANAGER": CACHE_MANAGER}
    done = load_extension(built, built, cache_dir, mount=mount, **options)
    assert LOADED in done.stdout, done.stderr


@needs_gcc
def test_stub_defines_the_symbols_of_the_extension(tmp_path):
    build_cuda_utils.build_stub(tmp_path)
    names = subprocess.run(
        ["nm", "-D", "--defined-only", tmp_path / "libcuda.so.1"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert " T cuModuleLoadData\n" in names
    assert os.listdir(tmp_path) == ["libcuda.so.1"]


@pytest.mark.parametrize("version", ["3.6.0", "3.6.0+git1", "2.99"])
def test_old_triton_stops_the_build(version):
    with pytest.raises(SystemExit, match=r"triton 3\.7 or newer"):
        build_cuda_utils.check_triton(version)


@pytest.mark.parametrize("version", ["3.7.1", "3.10.0", "4.0"])
def test_new_triton_is_accepted(version):
    build_cuda_utils.check_triton(version)
