"""`benchmarks.gpu_first` without a GPU: dry runs of all steps; steps that hang, crash and raise."""

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
from benchmarks.gpu_cases.sizes import DRY_RUN

STEPS = "tests.first_run_steps"


def step(name, limit_s=60.0):
    return Step(name, limit_s, STEPS)


@pytest.fixture
def no_numpy_warnings():
    """Suppress NumPy's warnings about NaN and division by zero in interpreted kernels."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)
        yield


@pytest.mark.usefixtures("no_numpy_warnings")
@pytest.mark.parametrize("name", [step.name for step in gpu_first.STEPS])
def test_dry_run_of_a_step_is_right_and_measures_no_time(name):
    with torch.inference_mode():
        rows = list(import_module(f"benchmarks.first_run.{name}").rows(DRY_RUN))

    assert rows
    assert [row for row in rows if row.failed] == []
    assert {row.us for row in rows} == {row.ratio for row in rows} == {None}


def test_hanging_step_is_killed_and_the_next_step_runs(tmp_path, monkeypatch):
    file, rows_at_write = tmp_path / "rows.jsonl", []
    write = gpu_first.write

    def record_and_write(*args):
        rows_at_write.append(read(file))
        write(*args)

    monkeypatch.setattr(gpu_first, "write", record_and_write)

    # the first step starts the process that imports torch for all steps
    steps = [step("succeeds"), step("hangs", 0.2), step("succeeds")]
    rows = gpu_first.run(steps, file, dry_run=True)

    names = [row.name for row in rows if row.name != "before it hangs"]
    assert names == ["a correct call", "hangs", "a correct call"]
    assert [row.failed for row in rows if row.name == "hangs"] == [True]
    assert "killed after 2 s" in rows[names.index("hangs") - len(names)].note
    assert rows_at_write[0][0].name == "a correct call", (
        "a step's rows are in the file when it ends"
    )
    lines = file.read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == [row.name for row in rows]


def test_step_that_crashes_or_raises_becomes_a_row(tmp_path):
    steps = [step("crashes"), step("raises"), step("succeeds")]
    rows = gpu_first.run(steps, tmp_path / "rows.jsonl", dry_run=True)

    assert [(row.name, row.failed) for row in rows] == [
        ("crashes", True),
        ("before it raises", False),
        ("raises", True),
        ("a correct call", False),
    ]
    assert rows[0].note == "ended with status 3"
    assert rows[2].note == "RuntimeError: no / kernel"


def test_step_without_time_left_becomes_a_row(tmp_path):
    rows = gpu_first.run([step("succeeds")], tmp_path / "rows.jsonl", dry_run=False, total_s=0.0)

    assert [(row.name, row.failed) for row in rows] == [("succeeds", True)]
    assert "not started" in rows[0].note


@pytest.mark.parametrize(
    ("names", "failed"), [(["succeeds"], False), (["succeeds", "raises"], True)]
)
def test_exit_status_tells_whether_a_step_failed(tmp_path, monkeypatch, capsys, names, failed):
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
    header = printed.index("| " + " | ".join(COLUMNS) + " |")
    assert "| a correct call | 1.0e-03 |  |  |  |  | right |  |" in printed[header:]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_no_step_starts(tmp_path, monkeypatch):
    file = tmp_path / "rows.jsonl"
    monkeypatch.setattr(sys, "argv", ["gpu_first", "--json", str(file)])
    with pytest.raises(SystemExit, match="--dry-run"):
        gpu_first.main()
    assert not file.exists()


def test_unknown_step_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu_first", "--only", "facts,speed"])
    with pytest.raises(SystemExit, match="no such step: speed"):
        gpu_first.main()
