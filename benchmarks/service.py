"""The service under load: `python -m benchmarks.service [--quick] [--only NAME] [--json FILE]`.

The servers run on one core and wrk on another. The service, an echo server and plain torch are
interleaved, with the same malloc settings.

- t_torch: the work of a request as plain torch calls on one thread; tiny rotations in batches of
  16, as the batcher runs them, with the time of one at a time in parentheses.
- t_echo: 1 / the rate of a minimal uvicorn application that returns the request body.
- eta: rate x (t_torch + t_echo). 1 means that the service adds nothing to the sum of its floors.
- eta, CPU: the same with processor time, which depends less on other load on the machine.
- load: the share of its core that wrk used; near 100 %, wrk is the bottleneck.

Figures are medians of the rounds. eta is the median of the eta of each round, with the smallest and
the largest in parentheses.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from benchmarks import floor_worker, memory, servers, table, wrk
from benchmarks.service_rounds import ServiceBenchmark
from benchmarks.table import Row
from benchmarks.workloads import WORKLOADS, Workload

COLUMNS = (
    "workload, connections",
    "requests/s",
    "x torch",
    "x echo",
    "eta",
    "eta, CPU",
    "p50 ms",
    "p99 ms",
    "t_torch us",
    "t_echo us",
    "CPU us",
    "echo CPU us",
    "load",
)


def _print_row(row: Row, batched: bool) -> None:
    if "failed" in row:
        table.print_row([row["workload"], f"failed: {row['failed']}"] + [""] * (len(COLUMNS) - 2))
        return
    not_printed = ("eta_least", "eta_most", "t_torch_one_us")
    cells = {
        name: table.format_cell(value) for name, value in row.items() if name not in not_printed
    }
    cells["eta"] = "{eta:.2f} ({eta_least:.2f}-{eta_most:.2f})".format_map(row)
    cells["eta_cpu"] = "{eta_cpu:.2f}".format_map(row)
    cells["load_busy"] = "{load_busy:.0%}".format_map(row)
    if batched:
        cells["t_torch_us"] += f" ({table.format_cell(row['t_torch_one_us'])})"
    table.print_row(cells.values())


def main() -> None:
    """Run the command line."""
    args = _arguments()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("needs two cores: one for the servers, one for the load")
    if missing := wrk.missing_programs():
        raise SystemExit(missing)
    table.print_machine()
    rows: list[Row] = []
    selected = [workload for workload in WORKLOADS if args.only in workload.name]
    if selected:
        rows += _measure(selected, cores[0], cores[1], args.rounds, args.quick)
    if args.only in ("", "memory"):
        before, peak = memory.peak(cores[0], rounds=1 if args.quick else 4)
        print(
            f"\n{memory.CONCURRENCY} x 32 MiB at once: peak {peak:.2f} GiB, {before:.2f} GiB before"
        )
        rows.append({"workload": "memory", "before_gib": before, "peak_gib": peak})
    if args.json:
        table.write_json(args.json, rows)
    if not rows or any("failed" in row for row in rows):
        raise SystemExit("no row" if not rows else "a row failed")


def _measure(
    selected: list[Workload], serve_core: int, load_core: int, rounds: int, quick: bool
) -> Iterator[Row]:
    with (
        servers.started("benchmarks.echo_server", serve_core) as echo,
        servers.started("service", serve_core) as service,
        floor_worker.started(serve_core) as worker,
    ):
        bench = ServiceBenchmark(echo, service, worker, load_core, 1 if quick else rounds, quick)
        table.print_header(COLUMNS)
        for workload in selected:
            for row in bench.rows(workload):
                _print_row(row, workload.batch > 1)
                yield row


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="8 connections, one short round")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument(
        "--only", default="", help='workloads whose name contains this, or "memory"'
    )
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
