"""Sections run: each in a process of its own on a GPU, all in this one in a dry run."""

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
from benchmarks.gpu_cases.measure import COLUMNS, DRY_COLUMNS, cells, rows_of
from benchmarks.gpu_cases.sections import SECTIONS, wanted
from benchmarks.table import Row

SECTION_S, ALL_S = 150, 460
"""How long a section, and all of them, may take."""


def dry(only: str) -> list[Row]:
    """Check all that there is, interpreted."""
    print("dry run: no figure is a GPU figure, and none is printed\n")
    table.print_head(DRY_COLUMNS)
    cases = (case for name in SECTIONS for case in wanted(name, only, dry=True))
    return [_printed(row) for name, make in cases for row in rows_of(name, make, None)]


def section(name: str, only: str, found: Path) -> None:
    """Run a section, and write the rows so far after each case."""
    so_far: list[Row] = []
    for case, make in wanted(name, only, dry=False):
        so_far += map(_printed, rows_of(case, make, cuda_timing.take_turns))
        found.write_text(json.dumps(so_far))
        with suppress(RuntimeError):  # once a kernel has failed, so do all calls of CUDA
            torch.cuda.empty_cache()


def apart(only: str) -> list[Row]:
    """Run each section in a process, and return the rows of all."""
    table.print_head(COLUMNS)
    so_far: list[Row] = []
    begun = time.monotonic()
    with TemporaryDirectory() as folder:
        for name in SECTIONS:
            if not wanted(name, only, dry=False):
                continue
            found = Path(folder, f"{name}.json")
            left_s = min(SECTION_S, ALL_S - (time.monotonic() - begun))
            why = _process(left_s, "--section", name, "--only", only, "--json", str(found))
            so_far += json.loads(found.read_text()) if found.exists() else []
            if why:
                so_far.append(_printed({"call": f"section {name}", "failed": why}))
    return so_far


def _process(limit_s: float, *arguments: str) -> str | None:
    """Run the command for a section, and return what went wrong."""
    if limit_s <= 0:
        return f"not begun: {ALL_S} s are over"
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    try:
        status = subprocess.run(command, timeout=limit_s).returncode
    except subprocess.TimeoutExpired:
        return f"stopped after {limit_s:.0f} s"
    return f"ended with status {status}" if status else None


def _printed(row: Row) -> Row:
    table.print_row(cells(row))
    return row
