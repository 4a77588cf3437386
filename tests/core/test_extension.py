"""When the compiled rotation is there, and when it is used."""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest

from rope_core import compiled
from tests.conftest import ROOT

HEADERS = Path(sysconfig.get_path("include"), "Python.h")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc")
@pytest.mark.skipif(not HEADERS.exists(), reason="Python's headers are missing")
@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="no known FMA")
def test_extension_is_built_where_a_compiler_is():
    """`python setup.py build_ext --inplace` builds it; so does `pip install --editable`."""
    assert find_spec("rope_core._rotary") is not None


@pytest.mark.skipif(find_spec("rope_core._rotary") is None, reason="the extension is missing")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="capabilities of x86-64")
@pytest.mark.parametrize(("capability", "is_used"), [("avx2", True), ("default", False)])
def test_torch_without_fma_rotates_itself(capability, is_used):
    script = "from rope_core import compiled; print(compiled.extension() is not None)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "ATEN_CPU_CAPABILITY": capability, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.strip() == str(is_used)


def test_a_missing_extension_is_no_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "rope_core._rotary", None)
    monkeypatch.delattr("rope_core._rotary", raising=False)
    assert compiled.extension.__wrapped__() is None
