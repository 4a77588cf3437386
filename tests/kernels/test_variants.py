"""Variants are compiled as Triton would, also for a GPU that is not there."""

import json
import os
import subprocess
import sys

from tests.conftest import ROOT


def run(module):
    """Return the lines that a script prints where kernels are compiled."""
    environment = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"}
    printed = subprocess.run(
        [sys.executable, "-m", f"tests.kernels.{module}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    ).stdout.splitlines()
    return [*map(json.loads, printed)]


def test_variants_are_what_triton_would_compile_or_assume_less():
    compared = run("variants")
    assert len(compared) > 500
    for pair in compared:
        ours, tritons = pair["ours"], pair["triton"]
        for key in ("signature", "constants", "options"):
            assert ours[key] == tritons[key]
        assert {*ours["aligned"]} <= {*tritons["aligned"]}
    unaligned = [pair["ours"]["aligned"] == [] for pair in compared]
    assert any(unaligned)
    assert not all(unaligned)


def test_kernels_are_built_for_a_gpu_that_is_not_there():
    rotation, merging, too_large = run("prebuilt")
    for first, second in (rotation, merging):
        assert first.startswith("KernelNotBuilt"), "built, but not launched"
        assert second == "fused"
    for answer in too_large:
        assert answer.startswith("NoBackend: backend fused: rotary_kernel cannot be built: ")
        assert "shared memory" in answer, "more than this GPU has"
