"""Triton's C extension is built ahead where no GPU driver is, and loaded where no compiler is."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytest.importorskip("triton")
from deploy import build_cuda_utils

IMPORTED_FROM = f"{ROOT}{os.pathsep}{Path(build_cuda_utils.triton.__file__).parents[1]}"
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc here")


@needs_gcc
def test_extension_loads_without_a_compiler_once_it_is_built(tmp_path, monkeypatch):
    stub, prebuilt = tmp_path / "stub", tmp_path / "prefix" / "triton"
    monkeypatch.setenv("TRITON_CACHE_DIR", str(prebuilt))
    monkeypatch.setenv("PYTHONPATH", IMPORTED_FROM)
    build_cuda_utils.build_stub(stub)
    build_cuda_utils.build_extension(stub)
    assert [file.name.split(".")[0] for file in prebuilt.glob("*/*")] == ["cuda_utils"]

    programs = tmp_path / "programs"
    programs.mkdir()
    if file := shutil.which("file"):  # Triton's key depends on what this program says of Python
        (programs / "file").symlink_to(file)
    # as in the image: no compiler, a driver where device plugins mount it, and another cache
    script = (
        "import sys; sys.prefix = sys.argv[1];"
        "from triton.backends.nvidia.driver import CudaUtils;"
        "print(CudaUtils().load_binary)"
    )
    variables = {
        "PATH": str(programs),
        "PYTHONPATH": IMPORTED_FROM,
        "LD_LIBRARY_PATH": str(stub),
        "TRITON_CACHE_DIR": str(tmp_path / "empty"),
        "TRITON_CACHE_MANAGER": "service.kernel_cache:KernelCache",
    }
    command = [sys.executable, "-c", script, str(tmp_path / "prefix")]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert "built-in function load_binary" in done.stdout, done.stderr
    command[-1] = str(tmp_path)
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert "Failed to find C compiler" in done.stderr


@needs_gcc
def test_stub_defines_what_the_extension_needs(tmp_path):
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
        build_cuda_utils.require(version)


@pytest.mark.parametrize("version", ["3.7.1", "3.10.0", "4.0"])
def test_new_triton_does_not(version):
    build_cuda_utils.require(version)
