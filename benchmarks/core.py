"""The library in process, on one thread: `python -m benchmarks.core [--quick] [--json FILE]`.

`x floor` is the time of a call divided by the time of its floor for the same work: first of the
fastest samples, then of the medians. `adds us` is the difference of the fastest samples. The floor
of prefill is a matrix product with as many operations as the causal mask keeps. The floor of decode
is a copy of k and v, which moves twice the bytes that decode reads. The allocator keeps freed
memory, in large pages, as in the service.
"""

import argparse
import os
import sys
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import torch

from benchmarks import attention, rope_variants, rotation, table
from benchmarks.case import QUICK, Case, Sizes
from benchmarks.table import Row
from benchmarks.timing import time_interleaved
from service.__main__ import MALLOC

COLUMNS = ("call", "floor", "us", "us, median", "floor us", "adds us", "speed", "x floor")
COLUMNS += ("x floor, median",)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small tensors; times mean nothing")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    table.print_machine()
    sizes = QUICK if args.quick else Sizes()
    cases = chain(rotation.cases(sizes), rope_variants.cases(sizes), attention.cases(sizes))
    rows = _measure(
        (case for case in cases if args.only in case.name),
        rounds=2 if args.quick else 11,
        sample_s=1e-3 if args.quick else 2e-2,
    )
    if args.json:
        table.write_json(args.json, rows)


def _measure(cases: Iterable[Case], rounds: int, sample_s: float) -> list[Row]:
    table.print_header(COLUMNS)
    rows = []
    for case in cases:
        case.check()
        times = time_interleaved({"run": case.run, "floor": case.floor}, rounds, sample_s)
        run, floor = times["run"], times["floor"]
        row: Row = {
            "call": case.name,
            "floor": case.floor_name,
            "us": run.fastest * 1e6,
            "us_median": run.median * 1e6,
            "floor_us": floor.fastest * case.floor_share * 1e6,
            "adds_us": (run.fastest - floor.fastest * case.floor_share) * 1e6,
            "speed": f"{table.format_cell(case.work / run.fastest / 1e9)} {case.unit}",
            "x_floor": run.fastest / (floor.fastest * case.floor_share),
            "x_floor_median": run.median / (floor.median * case.floor_share),
        }
        table.print_row(row.values())
        rows.append(row)
    return rows


if __name__ == "__main__":
    if "GLIBC_TUNABLES" not in os.environ:  # glibc reads it when a process starts
        os.environ["GLIBC_TUNABLES"] = MALLOC
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    main()
