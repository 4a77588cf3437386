"""Compiled for a GPU, kernels that memory bounds keep it busy: wide accesses, many threads."""

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
        assert narrow == ({"STG.E"} if name.startswith("merge") else set()), f"{name}: but for lse"


def test_nothing_is_spilled(cases):
    for name, case in cases.items():
        assert case["stack"] == case["local"] == 0, name


def test_reads_that_are_on_their_way_cover_the_latency_of_memory(cases):
    for name, case in cases.items():
        threads = min(2048, REGISTERS // case["registers"])
        at_once = 1 if name.startswith("merge") else case["reads_16"]
        assert threads * 16 * at_once >= 2**15, name
        assert case["shared"] <= 2048, name


def test_layouts_differ_in_nothing_that_memory_sees(cases):
    for kind in ("bf16", "fp32", "bf16 table"):
        half, interleaved = cases[f"half {kind}"], cases[f"interleaved {kind}"]
        for what in ("reads_16", "writes_16", "accesses", "shared"):
            assert half[what] == interleaved[what], (kind, what)


def test_no_request_is_the_first_of_its_kind(lines):
    assert lines["calls"]["built"] == 2, "one of each kernel"
