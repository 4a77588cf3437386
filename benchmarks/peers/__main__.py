"""The service beside its peers: `python -m benchmarks.peers`, with `--help` for more.

All servers run on one core and the load generator on another. The peers wrap one function of plain
torch, each in the way that its documentation recommends, and batch where they can. One peer at a
time runs beside the service; the two take turns in each round, after an untimed round of each. All
outputs are compared with float64 first. Peers are installed in `.venv-peers` at first use.

- x: requests/s of the service divided by those of the peer, with the smallest and the largest.
- x, CPU: processor time of the peer's request divided by that of the service's.

Figures are medians of the rounds; ratios are taken within each round. h2load sends gRPC.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from benchmarks import h2load, load, table
from benchmarks.peers.peer import PEERS
from benchmarks.peers.rounds import PeerBenchmark
from benchmarks.table import Row, format_cell

COLUMNS = {
    "peer": "peer",
    "workload, connections": "workload",
    "requests/s": "rate",
    "peer's": "peer_rate",
    "x": "x",
    "x, CPU": "x_cpu",
    "p50 ms": "p50_ms",
    "peer's p50": "peer_p50_ms",
    "p99 ms": "p99_ms",
    "peer's p99": "peer_p99_ms",
    "CPU us": "cpu_us",
    "peer's CPU": "peer_cpu_us",
}


def main() -> None:
    """Run the command line."""
    args = _arguments()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("needs two cores: one for the servers, one for the load")
    if missing := load.missing_programs() or h2load.missing_programs():
        raise SystemExit(missing)
    selected = [peer for peer in PEERS if args.only in peer.name]
    info = table.machine() | table.versions("fastapi", "orjson")
    table.print_machine(info)
    table.print_header([*COLUMNS])
    rows: list[Row] = []
    bench = PeerBenchmark(cores[0], cores[1], 1 if args.quick else args.rounds, args.quick)
    for peer in selected:
        for row in bench.rows(peer):
            table.print_row(_cells(row))
            rows.append(row)
    print()
    _print_ratios(rows)
    if args.json:
        table.write_json(args.json, rows, info)
    if not rows:
        raise SystemExit("no row")


def _cells(row: Row) -> Iterator[str]:
    if "failed" in row:
        yield from (row["peer"], row["workload"], f"failed: {row['failed']}")
        yield from [""] * (len(COLUMNS) - 3)
        return
    for key in COLUMNS.values():
        cell = format_cell(row.get(key, "-"))
        yield f"{cell} ({row['x_least']:.2f}-{row['x_most']:.2f})" if key == "x" else cell


def _print_ratios(rows: list[Row]) -> None:
    """Print one table of ratios, a line for each peer, and why a peer could not be measured."""
    workloads = list(dict.fromkeys(row["workload"] for row in rows if row["workload"]))
    table.print_header(["requests/s of the service / the peer's", *workloads])
    reasons = []
    for peer in dict.fromkeys(row["peer"] for row in rows):
        cells = {row["workload"]: row for row in rows if row["peer"] == peer}
        printed = []
        for workload in workloads:
            row = cells.get(workload, cells.get("", {}))
            if "failed" in row:
                reasons.append(f"{peer}, {workload}: {row['failed']}")
            printed.append("failed" if "failed" in row else row.get("x", ""))
        table.print_row([peer, *printed])
    if reasons:
        print("\nFailed:\n" + "\n".join(f"- {reason}" for reason in reasons))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--only", default="", help="peers whose name contains this")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
