"""The kernels compile for a Hopper GPU, and fit one of its multiprocessors."""

import json
import os
import subprocess
import sys

from tests.conftest import ROOT

SHARED_BYTES = 227 * 1024
SPILLED_BYTES = 8


def test_kernels_of_attention_compile_and_fit():
    environment = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.kernels.compiled"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == 13
    for kernel in found:
        assert kernel["shared"] <= SHARED_BYTES, kernel
        assert kernel["stack"] <= SPILLED_BYTES, kernel
        if kernel["kernel"] == "prefill_kernel" and "bfloat16" in kernel["case"]:
            assert kernel["wgmma"], kernel
