"""The first run on a GPU, without one: every step dry, and steps that hang, crash and raise."""

import json
import sys
import warnings
from importlib import import_module

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from benchmarks import gpu_first
from benchmarks.first_run.row import COLUMNS
from benchmarks.first_run.step_process import Step, read
from benchmarks.gpu_cases.sizes import DRY

STEPS = "tests.first_run_steps"


def step(name, limit_s=60.0):
    return Step(name, limit_s, STEPS)


@pytest.fixture
def interpreter_words():
    """Let the interpreter divide by zero, as a GPU does, without a word."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)
        yield


@pytest.mark.usefixtures("interpreter_words")
@pytest.mark.parametrize("name", [each.name for each in gpu_first.STEPS])
def test_a_dry_step_answers_right_and_tells_no_time(name):
    with torch.inference_mode():
        rows = list(import_module(f"benchmarks.first_run.{name}").rows(DRY))

    assert rows
    assert [row for row in rows if row.failed] == []
    assert {row.us for row in rows} == {row.ratio for row in rows} == {None}


def test_a_step_that_hangs_is_killed_and_the_next_one_runs(tmp_path, monkeypatch):
    file, seen = tmp_path / "rows.jsonl", []
    write = gpu_first.write
    monkeypatch.setattr(gpu_first, "write", lambda *row: (seen.append(read(file)), write(*row)))

    # the first step loads torch for all of them
    steps = [step("right"), step("waits", 0.2), step("right")]
    rows = gpu_first.run(steps, file, dry=True)

    names = [row.name for row in rows if row.name != "before it waits"]
    assert names == ["a right answer", "waits", "a right answer"]
    assert [row.failed for row in rows if row.name == "waits"] == [True]
    assert "killed after 2 s" in rows[names.index("waits") - len(names)].note
    assert seen[0][0].name == "a right answer", "it is in the file before the next step ends"
    lines = file.read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == [row.name for row in rows]


def test_a_step_that_crashes_or_raises_is_a_row(tmp_path):
    steps = [step("crashes"), step("raises"), step("right")]
    rows = gpu_first.run(steps, tmp_path / "rows.jsonl", dry=True)

    assert [(row.name, row.failed) for row in rows] == [
        ("crashes", True),
        ("before it raises", False),
        ("raises", True),
        ("a right answer", False),
    ]
    assert rows[0].note == "ended with status 3"
    assert rows[2].note == "RuntimeError: no / kernel"


def test_steps_without_time_are_rows(tmp_path):
    rows = gpu_first.run([step("right")], tmp_path / "rows.jsonl", dry=False, total_s=0.0)

    assert [(row.name, row.failed) for row in rows] == [("right", True)]
    assert "not begun" in rows[0].note


@pytest.mark.parametrize(("names", "failed"), [(["right"], False), (["right", "raises"], True)])
def test_a_failed_step_makes_the_exit_status(tmp_path, monkeypatch, capsys, names, failed):
    monkeypatch.setattr(gpu_first, "STEPS", [step(name) for name in names])
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    arguments = ["gpu_first", "--dry-run", "--json", str(tmp_path / "rows.jsonl")]
    monkeypatch.setattr(sys, "argv", arguments)

    if failed:
        with pytest.raises(SystemExit, match="1 failed: raises"):
            gpu_first.main()
    else:
        gpu_first.main()

    printed = capsys.readouterr().out.splitlines()
    assert "no time is measured" in printed[0]
    head = printed.index("| " + " | ".join(COLUMNS) + " |")
    assert "| a right answer | 1.0e-03 |  |  |  |  | right |  |" in printed[head:]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_no_step_begins(tmp_path, monkeypatch):
    file = tmp_path / "rows.jsonl"
    monkeypatch.setattr(sys, "argv", ["gpu_first", "--json", str(file)])
    with pytest.raises(SystemExit, match="--dry-run"):
        gpu_first.main()
    assert not file.exists()


def test_an_unknown_step_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu_first", "--only", "facts,speed"])
    with pytest.raises(SystemExit, match="no such step: speed"):
        gpu_first.main()
