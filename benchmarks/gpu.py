"""The kernels on a CUDA device: `python -m benchmarks.gpu [--dry-run] [--only TEXT] [--json FILE]`.

Results are compared with float64 before they are timed.

- error: ||actual - expected|| / ||expected||.
- us: device time of a call; for cases about the host, host time.
- host us: time that the host takes to launch a call.
- ratio, over: time of what `over` names, for the same work, divided by the time of the call. If the
  goal is an upper bound, the inverse, or the time in microseconds.
- notes: times of other libraries as multiples of the time of the call.

Each section runs in its own process, so a crash affects only that section. The exit status is 1 if
a result was wrong or a call failed, and 0 otherwise, even if goals are missed.
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
        from tests.kernels import interpreter

        interpreter.install()
    elif not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device; --dry-run checks the results without one")
    from benchmarks.gpu_cases import gpu_info, runner

    torch.manual_seed(0)
    if args.section:
        gpu_info.warm_up()
        runner.run_section(args.section, args.only, args.json)
        return
    machine = gpu_info.software_versions() if args.dry_run else gpu_info.describe()
    table.print_machine(machine)
    if not args.dry_run and (error := gpu_info.launch_error()):
        raise SystemExit(f"no kernel can be launched, so nothing is measured: {error}")
    rows = runner.run_dry(args.only) if args.dry_run else runner.run_in_processes(args.only)
    if args.json:
        table.write_json(args.json, rows, machine)
    failed = ", ".join(str(row["call"]) for row in rows if "failed" in row)
    if failed or not rows:
        raise SystemExit(f"failed: {failed}" if failed else "no case has that in its name")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, interpreted, not timed")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
