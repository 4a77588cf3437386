"""The process of a step. It writes each row as a line of JSON as soon as the row is known."""

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
from benchmarks.gpu_cases.sizes import DRY_RUN, FULL

STACK_DUMP_FRACTION = 0.9
"""A step prints its stack after this fraction of its time limit."""


@dataclass(frozen=True, slots=True)
class Step:
    """A part of the run, in its own process."""

    name: str
    limit_s: float
    package: str = "benchmarks.first_run"
    """Package with a module called `name`, whose `rows(sizes)` yields the rows."""


def run_step(step: Step, limit_s: float, dry_run: bool, file: Path) -> None:
    """Run a step and exit the process, with status 0 even if the step or a row failed."""
    os.setsid()  # a process group, to be killed with all processes that the step starts
    faulthandler.dump_traceback_later(STACK_DUMP_FRACTION * limit_s)
    torch.manual_seed(0)
    if dry_run:
        from tests.kernels import interpreter

        interpreter.install()
    try:
        module = import_module(f"{step.package}.{step.name}")
        with torch.inference_mode():
            for row in module.rows(DRY_RUN if dry_run else FULL):
                write(row, file)
    except Exception as exc:  # any error is a row, and the other steps run
        traceback.print_exc()
        write(failure(step.name, exc), file)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # does not wait for kernels or threads that hang


def write(row: Row, file: Path) -> None:
    """Print a row and append it to the file."""
    table.print_row(row.cells)
    with file.open("a") as lines:
        lines.write(json.dumps(asdict(row)) + "\n")


def read(file: Path) -> list[Row]:
    """Return the rows of a file."""
    return [Row(**json.loads(line)) for line in file.read_text().splitlines()]
