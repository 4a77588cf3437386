"""The process of a step: it writes each row as a line of JSON at once."""

import faulthandler
import json
import os
import sys
import traceback
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

import torch

from benchmarks import table
from benchmarks.first_run.row import Row, failure
from benchmarks.gpu_cases.sizes import DRY, FULL

DUMP_AT = 0.9
"""Fraction of its limit after which a running step prints its stack."""


@dataclass(frozen=True, slots=True)
class Step:
    """A part of the run, in a process of its own."""

    name: str
    limit_s: float
    package: str = "benchmarks.first_run"
    """Where the module of this name is, whose `rows(sizes)` yields the rows."""


def run_step(step: Step, limit_s: float, dry: bool, file: Path) -> None:
    """Run a step and end the process, with status 0 even if rows or the step failed."""
    os.setsid()  # a group, which can be killed with all processes that the step starts
    faulthandler.dump_traceback_later(DUMP_AT * limit_s)
    torch.manual_seed(0)
    try:
        with torch.inference_mode():
            for row in import_module(f"{step.package}.{step.name}").rows(DRY if dry else FULL):
                write(row, file)
    except Exception as why:  # becomes a row; the other steps run
        traceback.print_exc()
        write(failure(step.name, why), file)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # does not wait for a kernel or a thread that hangs


def write(row: Row, file: Path) -> None:
    """Print a row, and append it to the file."""
    table.print_row(row.cells)
    with file.open("a") as lines:
        lines.write(json.dumps(asdict(row)) + "\n")


def read(file: Path) -> list[Row]:
    """Return the rows of a file."""
    return [Row(**json.loads(line)) for line in file.read_text().splitlines()]
