"""KServe's clients, in a process of their own: tritonclient has messages of the same names."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import ROOT

SUITE = Path(__file__).with_name("kserve_suite.py")


@pytest.mark.skipif(find_spec("kserve") is None, reason="kserve is not installed")
def test_the_suite_of_kserve(target):
    told = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", SUITE],
        cwd=ROOT,
        env={**os.environ, "OIP_HTTP": target.url, "OIP_GRPC": target.grpc},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert told.returncode == 0, f"{told.stdout}\n{told.stderr}"
    assert " passed" in told.stdout
    assert "skipped" not in told.stdout
