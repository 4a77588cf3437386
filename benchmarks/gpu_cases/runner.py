"""Run the sections: each in its own process on a GPU, all in this process in a dry run."""

import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks import table
from benchmarks.gpu_cases import cuda_timing
from benchmarks.gpu_cases.measure import COLUMNS, DRY_RUN_COLUMNS, cells, measure_case
from benchmarks.gpu_cases.sections import SECTIONS, select_cases
from benchmarks.table import Row

SECTION_LIMIT_S, TOTAL_LIMIT_S = 150, 460


def run_dry(only: str) -> list[Row]:
    """Check all cases with interpreted kernels, without timing."""
    print("dry run: no figure is a GPU figure, and none is printed\n")
    table.print_header(DRY_RUN_COLUMNS)
    cases = (case for name in SECTIONS for case in select_cases(name, only, dry_run=True))
    return [_print(row) for name, factory in cases for row in measure_case(name, factory, None)]


def run_section(section: str, only: str, file: Path) -> None:
    """Run one section. Write the rows so far to `file` after each case."""
    rows: list[Row] = []
    for name, factory in select_cases(section, only, dry_run=False):
        rows += map(_print, measure_case(name, factory, cuda_timing.time_interleaved))
        file.write_text(json.dumps(rows))
        with suppress(RuntimeError):  # after a failed kernel, every call of CUDA fails
            torch.cuda.empty_cache()


def run_in_processes(only: str) -> list[Row]:
    """Run each section in its own process; return the rows of all sections."""
    table.print_header(COLUMNS)
    rows: list[Row] = []
    start = time.monotonic()
    with TemporaryDirectory() as folder:
        for name in SECTIONS:
            if not select_cases(name, only, dry_run=False):
                continue
            file = Path(folder, f"{name}.json")
            limit_s = min(SECTION_LIMIT_S, TOTAL_LIMIT_S - (time.monotonic() - start))
            error = _run_process(limit_s, "--section", name, "--only", only, "--json", str(file))
            rows += json.loads(file.read_text()) if file.exists() else []
            if error:
                rows.append(_print({"call": f"section {name}", "failed": error}))
    return rows


def _run_process(limit_s: float, *arguments: str) -> str | None:
    """Run `benchmarks.gpu` in a new process; return the error, or None on success."""
    if limit_s <= 0:
        return f"not started: the limit of {TOTAL_LIMIT_S} s was reached"
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    try:
        status = subprocess.run(command, timeout=limit_s).returncode
    except subprocess.TimeoutExpired:
        return f"stopped after {limit_s:.0f} s"
    return f"ended with status {status}" if status else None


def _print(row: Row) -> Row:
    table.print_row(cells(row))
    return row
