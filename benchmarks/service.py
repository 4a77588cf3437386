"""The service under load: `python -m benchmarks.service`, with `--help` for more.

The servers run on one core and the load generator on another. In each round plain torch, a uvicorn
echo and the service take turns. Before the first round each server has an untimed one with as many
connections, in which the bytes of all responses are compared.

- t_torch: the work of a request in plain torch on one thread; tiny rotations in batches of 16.
- t_echo: 1 / the rate of a minimal uvicorn application that returns the request body.
- eta: rate x (t_torch + t_echo). 1 means that the service adds nothing to the sum of its floors.
- eta, CPU: the same with processor time, which depends less on other load on the machine.
- least: responses on the connection with the fewest.
- load: the share of its core that the load generator used; near 100 %, it is the bottleneck.
- x other: the rate divided by that of the checkout of `--against`, and the other's processor time
  divided by the service's. To find what a change is worth, undo it in a second worktree.

The second table has the processor time of a request in microseconds: the kernel's part is that of
sockets and memory, torch is the floor, and the rest is parsing, batching and Python.

Figures are medians of the rounds; ratios are taken within each round. eta has the smallest and the
largest in parentheses.
"""

import argparse
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks import floor_worker, load, memory, servers, table
from benchmarks.service_rounds import ECHO, OTHER, SERVICE, ServiceBenchmark
from benchmarks.table import Row, format_cell
from benchmarks.workloads import WORKLOADS, Workload

COLUMNS = {
    "workload, connections": "workload",
    "requests/s": "rate",
    "eta": "eta",
    "eta, CPU": "eta_cpu",
    "x echo": "x_echo",
    "p50 / echo's": "p50_x_echo",
    "p99 / echo's": "p99_x_echo",
    "p50 ms": "p50_ms",
    "p99 ms": "p99_ms",
    "least": "least",
    "load": "load_busy",
}
OTHER_COLUMNS = {"x other": "x_other", "x other, CPU": "x_other_cpu"}
BUDGET_COLUMNS = {
    "workload, connections": "workload",
    "CPU us": "cpu_us",
    "kernel": "kernel_us",
    "torch": "torch_cpu_us",
    "rest": "rest_us",
    "echo CPU us": "echo_cpu_us",
    "echo kernel": "echo_kernel_us",
    "t_torch us": "t_torch_us",
    "t_echo us": "t_echo_us",
}


def main() -> None:
    """Run the command line."""
    args = _arguments()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("needs two cores: one for the servers, one for the load")
    if missing := load.missing_programs():
        raise SystemExit(missing)
    table.print_machine()
    rows: list[Row] = []
    selected = [workload for workload in WORKLOADS if args.only in workload.name]
    if selected:
        columns = COLUMNS | (OTHER_COLUMNS if args.against else {})
        table.print_header([*columns])
        for row in _measure(selected, cores[0], cores[1], args):
            table.print_row(_cells(row, columns))
            rows.append(row)
        print()
        table.print_header([*BUDGET_COLUMNS])
        for row in rows:
            table.print_row(_cells(row, BUDGET_COLUMNS))
    if args.only in ("", "memory"):
        row = memory.measure(cores[0], cores[1], bursts=2 if args.quick else 4)
        bursts = ", ".join(format_cell(rate) for rate in row["burst_rates"])
        print(
            f"\n{memory.CONCURRENCY} x 32 MiB at once, fresh service: {bursts} requests/s in the "
            f"first bursts; peak {row['peak_gib']:.2f} GiB, {row['before_gib']:.2f} GiB before"
        )
        rows.append(row)
    if args.json:
        table.write_json(args.json, rows)
    if not rows or any("failed" in row for row in rows):
        raise SystemExit("no row" if not rows else "a row failed")


def _measure(
    selected: list[Workload], serve_core: int, load_core: int, args: argparse.Namespace
) -> Iterator[Row]:
    with ExitStack() as stack:
        start = stack.enter_context
        processes = {
            ECHO: start(servers.started("benchmarks.echo_server", serve_core)),
            SERVICE: start(servers.started("service", serve_core)),
        }
        if args.against:
            processes[OTHER] = start(servers.started("service", serve_core, folder=args.against))
        worker = start(floor_worker.started(serve_core))
        rounds = 1 if args.quick else args.rounds
        bench = ServiceBenchmark(processes, worker, load_core, rounds, args.quick)
        for workload in selected:
            yield from bench.rows(workload)


def _cells(row: Row, columns: dict[str, str]) -> list[str]:
    if "failed" in row:
        return [row["workload"], f"failed: {row['failed']}"] + [""] * (len(columns) - 2)
    cells = {key: format_cell(value) for key, value in row.items()}
    cells["eta"] = "{eta:.2f} ({eta_least:.2f}-{eta_most:.2f})".format_map(row)
    cells["load_busy"] = "{load_busy:.0%}".format_map(row)
    return [cells[key] for key in columns.values()]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="8 connections, one short round")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument(
        "--only", default="", help='workloads whose name contains this, or "memory"'
    )
    parser.add_argument(
        "--against", type=Path, help="a checkout whose service is measured in the same rounds"
    )
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
