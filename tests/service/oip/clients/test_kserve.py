"""KServe's clients, in another process, because tritonclient registers the same message names."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import ROOT

SUITE = Path(__file__).with_name("kserve_suite.py")


@pytest.mark.skipif(find_spec("kserve") is None, reason="kserve is not installed")
def test_the_kserve_suite(target):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", SUITE],
        cwd=ROOT,
        env={**os.environ, "OIP_HTTP": target.url, "OIP_GRPC": target.grpc},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
