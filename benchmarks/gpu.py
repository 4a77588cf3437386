"""The kernels on a CUDA device: `python -m benchmarks.gpu [--dry-run] [--only TEXT] [--json FILE]`.

An answer is compared with float64 before it is timed: `error` is ||answer - truth|| / ||truth||.
`us` is the device's time of a call, or the host's where the host is what is measured; `host us` is
the time that the host takes to launch it. `ratio` is the time that the thing under `over` takes for
the same work, over the call's own; where the goal is an upper bound, the call's time over its, or
microseconds. Times of others are multiples of the call's.

Each section is a process of its own, so that one that fails takes no other with it.
The exit status is 1 if an answer was wrong or a call failed, and 0 however many goals are missed.
"""

import argparse
import os
from pathlib import Path

import torch

from benchmarks import table


def main() -> None:
    """Run the command line."""
    args = _arguments()
    if args.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported
    elif not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device; --dry-run compares the answers without one")
    from benchmarks.gpu_cases import gpu_info, runner

    torch.manual_seed(0)
    if args.section:
        gpu_info.warm()
        runner.section(args.section, args.only, args.json)
        return
    on = gpu_info.without() if args.dry_run else gpu_info.found()
    table.print_machine(on)
    if not args.dry_run and (why := gpu_info.why_no_launch()):
        raise SystemExit(f"no kernel can be launched, so nothing is measured: {why}")
    rows = runner.dry(args.only) if args.dry_run else runner.apart(args.only)
    if args.json:
        table.write_json(args.json, rows, on)
    failed = ", ".join(str(row["call"]) for row in rows if "failed" in row)
    if failed or not rows:
        raise SystemExit(f"failed: {failed}" if failed else "no call has that in its name")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry-run", action="store_true", help="interpreted, tiny, nothing timed")
    parser.add_argument("--only", default="", help="the calls whose name has this in it")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
