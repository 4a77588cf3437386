"""What the benchmark of kernels does without a GPU: compare, refuse, and set times over others."""

import json
import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")

from benchmarks import gpu
from benchmarks.gpu_cases import gpu_info, packages, reference, runner, sections
from benchmarks.gpu_cases.case import Case, Over, Side, Truth
from benchmarks.gpu_cases.cuda_timing import Times
from benchmarks.gpu_cases.measure import COLUMNS, cells, rows_of
from tests.conftest import ROOT

RIGHT = torch.tensor([[3.0, 4.0]])
ANSWER = Truth(lambda: [RIGHT.double()], [1e-3])
COPY = Side("copy", lambda: None)


def own(answer=RIGHT):
    return Side("own", lambda: [answer], ANSWER)


def clock(**seconds):
    return lambda sides: {name: Times([seconds[name]] * 3, seconds[name] / 10) for name in sides}


def never(sides):
    raise AssertionError("timed")


def test_a_dry_run_compares_every_call_and_prints_no_figure(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--dry-run", "--json", tmp_path / "x.json"]
    environment = {name: x for name, x in os.environ.items() if name != "TRITON_INTERPRET"}
    ran = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "dry run: no figure is a GPU figure" in ran.stdout
    rows = json.loads((tmp_path / "x.json").read_text())["rows"]
    names = [
        name for section in sections.SECTIONS for name, _ in sections.wanted(section, "", True)
    ]
    assert [row["call"] for row in rows] == names
    assert {row["answer"] for row in rows} == {"right", "not asked"}
    without = [row["call"].split()[0] for row in rows if row["answer"] == "not asked"]
    assert {*without} == {"device", "matmul", "register", "unregister", "1", "wake-up"}
    told = {other for row in rows for other in row["others"].split(", ") if other}
    assert all(other.endswith(" right") for other in told)
    assert told >= {"torch eager right", "SDPA right", "SDPA flash right"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_nothing_is_timed():
    command = [sys.executable, "-m", "benchmarks.gpu"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert ran.returncode == 1
    assert "--dry-run" in ran.stderr
    assert not ran.stdout


def test_without_a_compiler_one_line_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_info, "found", dict)
    monkeypatch.setattr(gpu_info, "why_no_launch", lambda: "RuntimeError: no C compiler")
    monkeypatch.setattr(sys, "argv", ["gpu"])

    with pytest.raises(SystemExit, match="nothing is measured: RuntimeError: no C compiler"):
        gpu.main()

    assert "|" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "answer", [RIGHT + 1, RIGHT * torch.nan, RIGHT[0]], ids=["off", "nan", "of another shape"]
)
def test_a_wrong_answer_is_not_timed(answer):
    case = Case(own(answer), [Over("copy", [(COPY, 1.0)])], 1.0)
    (row,) = rows_of("call", lambda: case, never)

    assert row["failed"].startswith("wrong, so not timed")
    assert cells(row) == ["call", f"FAILED: {row['failed']}"]


@pytest.mark.parametrize("ours", [True, False])
def test_what_is_timed_beside_a_call_is_compared_too(ours):
    half = Side("half", lambda: [RIGHT + 1], ANSWER, ours=ours)
    case = Case(own(), [Over("half", [(half, 1.0)], most=1.05)], 1.0)
    (row,) = rows_of("call", lambda: case, clock(own=1.0))

    assert "wrong" in row["failed" if ours else "others"]


def test_one_row_that_is_off_among_many_is_wrong():
    true = torch.ones(100_000, 2, dtype=torch.float64)
    got = true.clone()
    got[77] *= 1.2

    with pytest.raises(reference.Wrong, match="a row by"):
        reference.check(Side("own", lambda: [got], Truth(lambda: [true], [1e-3])))


def test_a_call_that_raises_is_a_row():
    def make():
        raise RuntimeError("no | memory")

    assert list(rows_of("call", make, never)) == [
        {"call": "call", "failed": "RuntimeError: no / memory"}
    ]


@pytest.mark.parametrize(
    ("over", "ratio", "goal", "verdict"),
    [
        (Over("copy", [(COPY, 0.5)], least=0.8), 1.0, ">= 0.8", "met"),
        (Over("copy", [(COPY, 0.25)], least=0.8), 0.5, ">= 0.8", "missed"),
        (Over("copy", [(COPY, 1.0)], most=1.05), 0.5, "<= 1.05", "met"),
        (Over("us", (), most=6.0), 1e6, "<= 6", "missed"),
        (Over("floor", [(COPY, 0.1), (Side("matmul", lambda: None), 0.1)]), 0.4, "", ""),
    ],
    ids=["rate", "low rate", "time", "microseconds", "the slower floor"],
)
def test_times_are_set_over_what_they_are_held_against(over, ratio, goal, verdict):
    took = clock(own=1.0, copy=2.0, matmul=4.0)
    (row,) = rows_of("call", lambda: Case(own(), [over], 1e12), took)

    assert row["ratio"] == pytest.approx(ratio)
    assert (row["goal"], row["verdict"]) == (goal, verdict)
    assert row["speed"] == "1.00 TB/s"


def test_others_are_compared_first_and_the_missing_are_left_out():
    def missing():
        raise packages.Missing("not there")

    makes = [
        lambda: Side("fast", lambda: [RIGHT], ANSWER),
        lambda: Side("wrong", lambda: [RIGHT + 1], ANSWER),
        missing,
    ]
    over = [Over("copy", [(COPY, 1.0)]), Over("us", (), most=6.0)]
    case = Case(own(), over, 1.0, others=makes)
    first, second = rows_of("call", lambda: case, clock(own=1.0, copy=1.0, fast=0.5))

    assert first["others"].startswith("fast 0.500, wrong wrong: off by")
    assert second["others"] == ""


def test_host_time_is_a_column_of_its_own():
    (row,) = rows_of("call", lambda: Case(own(), [], 1e12), clock(own=2.0))

    assert (row["us"], row["host_us"]) == (2e6, pytest.approx(0.2e6))
    assert len(cells(row)) == len(COLUMNS)


def test_what_keeps_the_host_is_timed_by_the_host_and_noted():
    times = {"own": [3e-6, 1e-6, 2e-6], "one lane": [4e-6]}
    case = Case(
        own(),
        [Over("one lane", [(COPY, 1.0)], least=1.7)],
        0.0,
        measure=lambda: {"own": times["own"], "copy": times["one lane"]},
        note=lambda: "2 MB of cache",
    )
    (row,) = rows_of("call", lambda: case, never)

    assert (row["us"], row["host_us"], row["speed"]) == (pytest.approx(2.0), "", "")
    assert (row["ratio"], row["verdict"]) == (pytest.approx(2.0), "met")
    assert row["others"] == "2 MB of cache"


def test_decode_is_set_over_a_read_and_over_a_copy():
    ((_, make),) = sections.wanted("decode", "B=2, 20-70 keys, packed", True)

    assert [(over.name, over.least) for over in make().over] == [("read", 0.75), ("copy", 0.75)]


def test_products_of_float32_are_set_over_products_of_float32():
    ((_, make),) = sections.wanted("dense", "float32", True)

    names = {side.name for over in make().over for side, _ in over.sides}
    assert "matmul float32" in names
    assert "matmul bfloat16" not in names


def test_the_section_that_takes_longest_to_build_comes_last():
    assert [*sections.SECTIONS][-1] == "compiled"


def test_what_is_hidden_or_empty_is_compared_too():
    minus_inf, nan = -torch.inf, torch.nan
    true = torch.tensor([[minus_inf, 1.0], [nan, 2.0]], dtype=torch.float64)

    assert reference.error(true.float(), true)[0] == 0
    assert not reference.error(torch.tensor([[0.0, 1.0], [nan, 2.0]]), true)[0] <= 1
    assert not reference.error(torch.tensor([[minus_inf, nan], [nan, 2.0]]), true)[0] <= 1


def test_a_section_that_ends_badly_is_a_row_and_the_next_one_runs(monkeypatch, capsys):
    monkeypatch.setattr(runner, "_process", lambda limit_s, *given: f"ended: {given[1]}")

    rows = runner.apart("prefill")

    assert rows == [
        {"call": f"section {name}", "failed": f"ended: {name}"}
        for name in ("builds", "ragged", "masked", "dense", "grouped")
    ]
    assert "| section dense | FAILED: ended: dense |" in capsys.readouterr().out
