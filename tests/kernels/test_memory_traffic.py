"""Memory-bound kernels, compiled for a GPU: wide accesses, many threads."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytest.importorskip("triton")

REGISTERS = 2**16  # of a multiprocessor


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    environment = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    printed = subprocess.run(
        [sys.executable, "-m", "tests.kernels.memory_traffic"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    ).stdout.splitlines()
    return {line.pop("case"): line for line in map(json.loads, printed)}


@pytest.fixture
def cases(lines):
    return {name: line for name, line in lines.items() if name != "calls"}


def test_threads_read_and_write_16_bytes_at_a_time(cases):
    for name, case in cases.items():
        assert case["reads_16"] >= 1, name
        assert case["writes_16"] >= 1, name
        narrow = {
            n for n in case["accesses"] if n.startswith("STG") and n[-3:] not in (".64", "128")
        }
        assert narrow == ({"STG.E"} if name.startswith("merge") else set()), (
            f"{name}: only lse is narrow"
        )


def test_nothing_is_spilled(cases):
    for name, case in cases.items():
        assert case["stack"] == case["local"] == 0, name


def test_reads_in_flight_cover_the_latency_of_memory(cases):
    for name, case in cases.items():
        threads = min(2048, REGISTERS // case["registers"])
        reads_at_once = 1 if name.startswith("merge") else case["reads_16"]
        assert threads * 16 * reads_at_once >= 2**15, name
        assert case["shared"] <= 2048, name


def test_layouts_have_the_same_accesses(cases):
    for kind in ("bf16", "fp32", "bf16 table"):
        half, interleaved = cases[f"half {kind}"], cases[f"interleaved {kind}"]
        for key in ("reads_16", "writes_16", "accesses", "shared"):
            assert half[key] == interleaved[key], (kind, key)


def test_token_counts_and_strides_need_no_kernel_of_their_own(lines):
    assert lines["calls"]["built"] == 2, "one of each kernel"
