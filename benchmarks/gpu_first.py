"""The first run on a GPU: `python -m benchmarks.gpu_first [--dry-run] [--only STEP,STEP]`.

Each step is a process with its own time limit: a step that hangs or crashes becomes a row of the
table, and the next step runs. Results are compared with float64 before they are timed. Each row is
appended to a file of JSON lines as soon as it is known; the whole table is printed last. All steps
take at most 330 s; a step without time left becomes a row. The exit status is 1 if a step or a call
failed, and 0 otherwise, even if goals are missed.

A dry run needs no GPU: kernels are interpreted, sizes are tiny, the service computes on the CPU,
and no time is measured.
"""

import argparse
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from benchmarks import table
from benchmarks.first_run.row import COLUMNS, Row, failure
from benchmarks.first_run.step_process import Step, read, run_step, write

TOTAL_S = 330.0
STEPS = (
    Step("facts", 75),
    Step("floors", 40),
    Step("copies", 30),
    Step("answers", 75),
    Step("libraries", 30),
    Step("speeds", 75),
    Step("tiles", 45),
    Step("service", 75),
    Step("failures", 45),
)
DRY_RUN_FACTOR = 10.0
"""Factor on the time limits in a dry run: interpreted kernels are slow."""

KILL_WAIT_S = 5.0
"""Seconds to wait for a killed process: the driver may have to finish a kernel first."""

PRELOADED = ["benchmarks.first_run.step_process", "benchmarks.gpu_cases.kernels"]


def main() -> None:
    """Run the command line."""
    args = _arguments()
    names = args.only.split(",") if args.only else [step.name for step in STEPS]
    if unknown := set(names) - {step.name for step in STEPS}:
        raise SystemExit(f"no such step: {', '.join(sorted(unknown))}")
    steps = [step for step in STEPS if step.name in names]
    if args.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported
        print("dry run: no figure is a GPU figure, and no time is measured\n", flush=True)
    elif not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device; --dry-run runs every step without one")
    args.json.unlink(missing_ok=True)
    rows = run(steps, args.json, dry_run=args.dry_run)
    print()
    table.print_header(COLUMNS)
    for row in rows:
        table.print_row(row.cells)
    failed = [row.name for row in rows if row.failed]
    if failed:
        raise SystemExit(f"{len(failed)} failed: {', '.join(failed)}")


def run(steps: Sequence[Step], file: Path, *, dry_run: bool, total_s: float = TOTAL_S) -> list[Row]:
    """Run steps one after the other, each within its limit; return the rows of all steps.

    Args:
        steps: what to run.
        file: rows are appended here as JSON lines. All rows of a step are written when it ends.
        dry_run: whether kernels are interpreted and nothing is timed.
        total_s: limit of all steps together in seconds, ignored in a dry run.
    """
    deadline = time.monotonic() + total_s
    file.touch()
    # one process imports torch and triton; each step is a fork of it
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    for step in steps:
        limit_s = (
            step.limit_s * DRY_RUN_FACTOR
            if dry_run
            else min(step.limit_s, deadline - time.monotonic())
        )
        if limit_s <= 0:
            write(failure(step.name, f"not started: the limit of {total_s:g} s was reached"), file)
            continue
        process = context.Process(target=run_step, args=(step, limit_s, dry_run, file))
        process.start()
        process.join(limit_s)
        if process.exitcode is None:
            _kill(process)
            write(failure(step.name, f"killed after {limit_s:g} s"), file)
        elif process.exitcode:
            write(failure(step.name, f"ended with status {process.exitcode}"), file)
    return read(file)


def _kill(process: BaseProcess) -> None:
    """Kill a step and all processes that it started."""
    assert process.pid is not None, "the process was started"
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # the process has no group yet
        process.kill()
    process.join(KILL_WAIT_S)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, interpreted, not timed")
    parser.add_argument("--only", default="", help="names of steps, separated by commas")
    parser.add_argument(
        "--json", type=Path, default=Path("gpu_first.jsonl"), help="where rows are written"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
