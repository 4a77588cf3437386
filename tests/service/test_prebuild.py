"""Kernels that are built for an absent GPU are those that a service on such a GPU looks for."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytest.importorskip("triton")

TARGET, SHAPE = "90", "2x1x16"


def run(*arguments, cwd, **variables):
    variables = {
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_MANAGER": "service.kernel_builds.triton_cache:KernelCache",
        "TRITON_DISABLE_LINE_INFO": "1",
        **variables,
    }
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_service_finds_prebuilt_kernels_wherever_it_is_installed(tmp_path):
    prebuilt, elsewhere = tmp_path / "prebuilt", tmp_path / "elsewhere"
    output = run(
        *("service.kernel_builds.prebuild", "--targets", TARGET, "--shapes", SHAPE),
        cwd=ROOT,
        PYTHONPATH=str(ROOT),
        TRITON_CACHE_DIR=str(prebuilt),
    )
    num_kernels = len(list(prebuilt.glob("*/*.cubin")))
    assert f"sm_{TARGET}, 16: {num_kernels} kernels" in output

    for package in ("rope_core", "service"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, elsewhere / package, ignore=ignored)
    output = run(
        *("tests.service.prebuilt_service", str(prebuilt), TARGET, SHAPE),
        cwd=tmp_path,
        PYTHONPATH=f"{elsewhere}{os.pathsep}{ROOT}",
        TRITON_CACHE_DIR=str(tmp_path / "cache"),
    )
    started = json.loads(output)
    assert started["at"].startswith(str(elsewhere))
    assert started["hits"] == [True] * num_kernels
    assert not (tmp_path / "cache").exists()
