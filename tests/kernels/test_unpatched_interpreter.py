"""Without the tests' patches, Triton's interpreter cannot run some kernels: these are refused."""

import json
import os
import subprocess
import sys

from tests.conftest import ROOT


def test_a_kernel_that_the_interpreter_cannot_run_is_refused():
    finished = subprocess.run(
        [sys.executable, "-m", "tests.kernels.unpatched_interpreter"],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    errors = json.loads(finished.stdout)
    assert errors.keys() == {"rotate", "attend", "merge"}
    assert {*errors.values()} <= {"", "KernelFailed", "NoBackend"}
