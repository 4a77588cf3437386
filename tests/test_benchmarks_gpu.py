"""`benchmarks.gpu` without a GPU: checks of results, errors, and ratios of times."""

import json
import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")

from benchmarks import gpu
from benchmarks.gpu_cases import gpu_info, packages, reference, runner, sections
from benchmarks.gpu_cases.case import Case, Comparison, Provider, Reference
from benchmarks.gpu_cases.cuda_timing import Times
from benchmarks.gpu_cases.measure import COLUMNS, cells, measure_case
from tests.conftest import ROOT

RESULT = torch.tensor([[3.0, 4.0]])
EXPECTED = Reference(lambda: [RESULT.double()], [1e-3])
COPY = Provider("copy", lambda: None)


def our_provider(result=RESULT):
    return Provider("ours", lambda: [result], EXPECTED)


def fake_timer(**seconds):
    """Return a timer that reports fixed seconds; host time is a tenth of them."""
    return lambda runs: {name: Times([seconds[name]] * 3, seconds[name] / 10) for name in runs}


def unused_timer(runs):
    raise AssertionError("timed")


def test_dry_run_checks_every_case_and_prints_no_figure(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--dry-run", "--json", tmp_path / "x.json"]
    environment = {name: x for name, x in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "dry run: no figure is a GPU figure" in done.stdout
    rows = json.loads((tmp_path / "x.json").read_text())["rows"]
    cases = [
        case
        for section in sections.SECTIONS
        for case in sections.select_cases(section, "", dry_run=True)
    ]
    assert [row["call"] for row in rows] == [name for name, _ in cases]
    assert {row["answer"] for row in rows} == {"right", "not checked"}
    unchecked = {row["call"].split()[0] for row in rows if row["answer"] == "not checked"}
    assert unchecked == {"device", "matmul", "register", "unregister", "1", "wake-up"}
    libraries = {library for row in rows for library in row["others"].split(", ") if library}
    assert all(library.endswith(" right") for library in libraries)
    assert libraries >= {"torch eager right", "SDPA right", "SDPA flash right"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_the_program_exits_and_suggests_a_dry_run():
    command = [sys.executable, "-m", "benchmarks.gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert done.returncode == 1
    assert "--dry-run" in done.stderr
    assert not done.stdout


def test_launch_error_stops_the_program_before_the_table(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_info, "describe", dict)
    monkeypatch.setattr(gpu_info, "launch_error", lambda: "RuntimeError: no C compiler")
    monkeypatch.setattr(sys, "argv", ["gpu"])

    with pytest.raises(SystemExit, match="nothing is measured: RuntimeError: no C compiler"):
        gpu.main()

    assert "|" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "result", [RESULT + 1, RESULT * torch.nan, RESULT[0]], ids=["wrong value", "NaN", "wrong shape"]
)
def test_wrong_result_is_not_timed(result):
    case = Case(our_provider(result), [Comparison("copy", [(COPY, 1.0)])], 1.0)
    (row,) = measure_case("call", lambda: case, unused_timer)

    assert row["failed"].startswith("wrong, so not timed")
    assert cells(row) == ["call", f"FAILED: {row['failed']}"]


@pytest.mark.parametrize("is_ours", [True, False])
def test_wrong_baseline_fails_the_case_if_ours_and_is_a_note_otherwise(is_ours):
    half = Provider("half", lambda: [RESULT + 1], EXPECTED, is_ours=is_ours)
    case = Case(our_provider(), [Comparison("half", [(half, 1.0)], max_ratio=1.05)], 1.0)
    (row,) = measure_case("call", lambda: case, fake_timer(ours=1.0))

    assert "wrong" in row["failed" if is_ours else "others"]


def test_one_wrong_row_among_many_is_found():
    expected = torch.ones(100_000, 2, dtype=torch.float64)
    actual = expected.clone()
    actual[77] *= 1.2
    provider = Provider("ours", lambda: [actual], Reference(lambda: [expected], [1e-3]))

    with pytest.raises(reference.WrongAnswer, match="worst row"):
        reference.check(provider)


def test_exception_becomes_a_row():
    def create():
        raise RuntimeError("no | memory")

    assert list(measure_case("call", create, unused_timer)) == [
        {"call": "call", "failed": "RuntimeError: no / memory"}
    ]


@pytest.mark.parametrize(
    ("comparison", "ratio", "goal", "verdict"),
    [
        (Comparison("copy", [(COPY, 0.5)], min_ratio=0.8), 1.0, ">= 0.8", "met"),
        (Comparison("copy", [(COPY, 0.25)], min_ratio=0.8), 0.5, ">= 0.8", "missed"),
        (Comparison("copy", [(COPY, 1.0)], max_ratio=1.05), 0.5, "<= 1.05", "met"),
        (Comparison("us", (), max_ratio=6.0), 1e6, "<= 6", "missed"),
        (
            Comparison("floor", [(COPY, 0.1), (Provider("matmul", lambda: None), 0.1)]),
            0.4,
            "",
            "",
        ),
    ],
    ids=["min ratio met", "min ratio missed", "max ratio met", "microseconds", "slower floor"],
)
def test_ratio_and_verdict_of_a_comparison(comparison, ratio, goal, verdict):
    timer = fake_timer(ours=1.0, copy=2.0, matmul=4.0)
    (row,) = measure_case("call", lambda: Case(our_provider(), [comparison], 1e12), timer)

    assert row["ratio"] == pytest.approx(ratio)
    assert (row["goal"], row["verdict"]) == (goal, verdict)
    assert row["speed"] == "1.00 TB/s"


def test_libraries_are_checked_first_and_unavailable_ones_are_left_out():
    def unavailable():
        raise packages.Unavailable("not installed")

    libraries = [
        lambda: Provider("fast", lambda: [RESULT], EXPECTED),
        lambda: Provider("wrong", lambda: [RESULT + 1], EXPECTED),
        unavailable,
    ]
    comparisons = [Comparison("copy", [(COPY, 1.0)]), Comparison("us", (), max_ratio=6.0)]
    case = Case(our_provider(), comparisons, 1.0, libraries=libraries)
    timer = fake_timer(ours=1.0, copy=1.0, fast=0.5)
    first, second = measure_case("call", lambda: case, timer)

    assert first["others"].startswith("fast 0.500, wrong wrong: relative error")
    assert second["others"] == ""


def test_host_time_has_its_own_column():
    (row,) = measure_case("call", lambda: Case(our_provider(), [], 1e12), fake_timer(ours=2.0))

    assert (row["us"], row["host_us"]) == (2e6, pytest.approx(0.2e6))
    assert len(cells(row)) == len(COLUMNS)


def test_case_with_its_own_measurement_uses_those_times_and_its_note():
    case = Case(
        our_provider(),
        [Comparison("one run in flight", [(COPY, 1.0)], min_ratio=1.7)],
        0.0,
        measure=lambda: {"ours": [3e-6, 1e-6, 2e-6], "copy": [4e-6]},
        note=lambda: "2 MB of cache",
    )
    (row,) = measure_case("call", lambda: case, unused_timer)

    assert (row["us"], row["host_us"], row["speed"]) == (pytest.approx(2.0), "", "")
    assert (row["ratio"], row["verdict"]) == (pytest.approx(2.0), "met")
    assert row["others"] == "2 MB of cache"


def test_decode_is_compared_with_a_read_and_with_a_copy():
    ((_, factory),) = sections.select_cases("decode", "B=2, 20-70 keys, packed", dry_run=True)

    goals = [(comparison.name, comparison.min_ratio) for comparison in factory().comparisons]
    assert goals == [("read", 0.75), ("copy", 0.75)]


def test_float32_prefill_is_compared_with_a_float32_matmul():
    ((_, factory),) = sections.select_cases("dense", "float32", dry_run=True)

    names = {
        provider.name
        for comparison in factory().comparisons
        for provider, _ in comparison.baselines
    }
    assert "matmul float32" in names
    assert "matmul bfloat16" not in names


def test_slowest_section_to_compile_is_last():
    assert [*sections.SECTIONS][-1] == "compiled"


def test_error_requires_equal_infinities_and_nan():
    minus_inf, nan = -torch.inf, torch.nan
    expected = torch.tensor([[minus_inf, 1.0], [nan, 2.0]], dtype=torch.float64)

    def total_error(*rows):
        return reference.error(torch.tensor(rows), expected)[0]

    assert total_error([minus_inf, 1.0], [nan, 2.0]) == 0
    assert not total_error([0.0, 1.0], [nan, 2.0]) <= 1
    assert not total_error([minus_inf, nan], [nan, 2.0]) <= 1


def test_failed_section_is_a_row_and_the_next_section_runs(monkeypatch, capsys):
    monkeypatch.setattr(runner, "_run_process", lambda limit_s, *args: f"ended: {args[1]}")

    rows = runner.run_in_processes("prefill")

    assert rows == [
        {"call": f"section {name}", "failed": f"ended: {name}"}
        for name in ("builds", "ragged", "masked", "dense", "grouped")
    ]
    assert "| section dense | FAILED: ended: dense |" in capsys.readouterr().out
