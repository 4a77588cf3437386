"""The library in process, on one thread: `python -m benchmarks.core [--quick] [--json FILE]`.

`x floor` is the time of a call over the time that its floor takes for the same work; least is of
the fastest samples, median of the medians. Prefill: over a matrix product of as many operations as
causality leaves. Decode: over a copy of k and v, which moves twice the bytes that are read. The
allocator keeps what it has, in large pages, as the service's does.
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
from benchmarks.timing import take_turns
from service.__main__ import MALLOC

COLUMNS = ("call", "floor", "us", "us, median", "floor us", "adds us", "speed", "x floor")
COLUMNS += ("x floor, median",)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Raw)
    parser.add_argument("--quick", action="store_true", help="small tensors: does it run at all?")
    parser.add_argument("--only", default="", help="the cases whose name has this in it")
    parser.add_argument("--json", type=Path, help="also write the rows here")
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
    table.print_head(COLUMNS)
    rows = []
    for case in cases:
        case.check()
        times = take_turns({"run": case.run, "floor": case.floor}, rounds, sample_s)
        run, floor = times["run"], times["floor"]
        row: Row = {
            "call": case.name,
            "floor": case.floor_name,
            "us": run.least * 1e6,
            "us_median": run.median * 1e6,
            "floor_us": floor.least * case.share * 1e6,
            "adds_us": (run.least - floor.least * case.share) * 1e6,
            "speed": f"{table.shown(case.work / run.least / 1e9)} {case.unit}",
            "x_floor": run.least / (floor.least * case.share),
            "x_floor_median": run.median / (floor.median * case.share),
        }
        table.print_row(row.values())
        rows.append(row)
    return rows


class _Raw(argparse.RawDescriptionHelpFormatter):
    pass


if __name__ == "__main__":
    if "GLIBC_TUNABLES" not in os.environ:  # read when a process starts
        os.environ["GLIBC_TUNABLES"] = MALLOC
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    main()
