"""The service under load: `python -m benchmarks.service [--quick] [--only NAME] [--json FILE]`.

The server has one core, wrk another; both servers and the bare call of torch take turns, with one
and the same setting of malloc.

- t_torch: the request's work as plain calls of torch on one thread; tiny rotations 16 at a time, as
  the batcher runs them. The figure in parentheses is one at a time.
- t_echo: 1 / the rate of a minimal uvicorn application that sends back as many bytes as it reads.
- eta: rate x (t_torch + t_echo). 1 means that the service adds nothing to the sum of its floors.
- eta, CPU: the same of processor time, which a neighbour on the machine disturbs less.
- load: the share of its core that wrk took; near 100 %, the row measured wrk.

Medians of the rounds; eta is that of each round's own eta, least and most in parentheses.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from benchmarks import floor_worker, memory, servers, table, wrk
from benchmarks.service_rounds import Bench
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


def _print(row: Row, batched: bool) -> None:
    if "failed" in row:
        table.print_row([row["workload"], f"failed: {row['failed']}"] + [""] * (len(COLUMNS) - 2))
        return
    hidden = ("eta_least", "eta_most", "t_torch_one_us")
    cells = {name: table.shown(value) for name, value in row.items() if name not in hidden}
    cells["eta"] = "{eta:.2f} ({eta_least:.2f}-{eta_most:.2f})".format_map(row)
    cells["eta_cpu"] = "{eta_cpu:.2f}".format_map(row)
    cells["load_busy"] = "{load_busy:.0%}".format_map(row)
    if batched:
        cells["t_torch_us"] += f" ({table.shown(row['t_torch_one_us'])})"
    table.print_row(cells.values())


def main() -> None:
    """Run the command line."""
    args = _arguments()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("needs two cores: one to serve, one to load")
    if why_not := wrk.missing():
        raise SystemExit(why_not)
    table.print_machine()
    rows: list[Row] = []
    wanted = [workload for workload in WORKLOADS if args.only in workload.name]
    if wanted:
        rows += _measure(wanted, cores[0], cores[1], args.rounds, args.quick)
    if args.only in ("", "memory"):
        before, peak = memory.peak(cores[0], rounds=1 if args.quick else 4)
        print(f"\n{memory.AT_ONCE} x 32 MiB at once: peak {peak:.2f} GiB, {before:.2f} GiB before")
        rows.append({"workload": "memory", "before_gib": before, "peak_gib": peak})
    if args.json:
        table.write_json(args.json, rows)
    if not rows or any("failed" in row for row in rows):
        raise SystemExit("no row" if not rows else "a row failed")


def _measure(
    wanted: list[Workload], serve_core: int, load_core: int, rounds: int, quick: bool
) -> Iterator[Row]:
    with (
        servers.started("benchmarks.echo_server", serve_core) as echo,
        servers.started("service", serve_core) as service,
        floor_worker.started(serve_core) as worker,
    ):
        bench = Bench(echo, service, worker, load_core, 1 if quick else rounds, quick)
        table.print_head(COLUMNS)
        for workload in wanted:
            for row in bench.rows(workload):
                _print(row, workload.batch > 1)
                yield row


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="8 connections, one short round")
    parser.add_argument("--rounds", type=int, default=5, help="5 where missing")
    parser.add_argument(
        "--only", default="", help='workloads whose name has this in it, or "memory"'
    )
    parser.add_argument("--json", type=Path, help="also write the rows here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
