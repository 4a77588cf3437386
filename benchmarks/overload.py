"""The service beyond its capacity: `python -m benchmarks.overload`, with `--help` for more.

The capacity is the best rate of a closed loop of the workload (attention S=64), measured again for
each profile. Then requests with a deadline of 500 ms arrive at random times (a Poisson process), at
0.5, 1, 2 and 10 times that rate and at 0.5 again, on 1,024 connections that are kept alive and with
a connection for each request. Other profiles mix sizes, add clients that read or send very slowly,
and have two tenants of equal weight: one sends a fifth of the capacity, the other five times the
capacity. The service runs on one core and has a budget of 1 GiB; the load and this process run on
another.

- offered/s: arrivals. Latencies count from the time at which the arrival was due.
- good/s: responses with status 200 within the deadline. peak: their fraction of the capacity.
- answers: responses by status. Arrivals without a response: dropped (no connection was free, so
  nothing was sent), not connected (within the deadline), ended (the connection, without a
  response), timed out (after 10 s).
- refused: latency of 429 and 503, p50 / p99 / largest. accepted: latency of 200, p50 / p99.
- health: p99 of /healthz, 20 times a second on a connection of its own. With `--status-port` also
  that of `ROPE_STATUS_PORT`, behind a slash; the bar then applies to this port.
- MiB: peak of resident memory, and its limit: idle memory, the budget and 128 MiB.
- connections: most open connections, counted by the descriptors of the process.
- late: calls whose run ended after their deadline, if the service counts them.
- others: fraction of the core of the service that other programs used. A row with more than a few
  percent is not reliable.
- slip: p99 of the delay of the load generator. A row with more than 20 ms, marked by !, is not
  reliable.
- missed: how many bars were not met, and which. All bars are in the file of `--json`.
"""

import argparse
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import load, table
from benchmarks.load import LoadError
from benchmarks.overload_profiles import PROFILES
from benchmarks.overload_subject import started
from benchmarks.overload_tenants import measure_tenants, write_keys
from benchmarks.table import Row, format_cell

TENANTS = "tenants"
ALL_PROFILES = {**PROFILES, TENANTS: measure_tenants}

COLUMNS = (
    "profile",
    "offered/s",
    "good/s",
    "peak",
    "answers",
    "refused ms",
    "accepted ms",
    "health ms",
    "MiB",
    "connections",
    "late",
    "others",
    "slip ms",
    "missed",
)
WITHOUT_ANSWER = ("dropped", "not_connected", "ended", "timed_out")
MAX_SLIP_MS = 20


def main() -> None:
    """Run the command line."""
    args = _arguments()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("needs two cores: one for the service, one for the load")
    if missing := load.missing_programs():
        raise SystemExit(missing)
    selected = [name for name in ALL_PROFILES if args.only in name]
    if not selected:
        raise SystemExit("no profile")
    serve_core, load_core = cores[:2]
    table.print_machine()
    os.sched_setaffinity(0, {load_core})  # this process must not disturb the service
    rows = []
    for row in _measure(selected, serve_core, load_core, args):
        table.print_row(_cells(row))
        rows.append(row)
    if args.json:
        table.write_json(args.json, rows)
    if any("failed" in row for row in rows):
        raise SystemExit("a profile failed")


def _measure(
    selected: list[str], serve_core: int, load_core: int, args: argparse.Namespace
) -> Iterator[Row]:
    seconds = 0.25 if args.quick else args.seconds
    table.print_header(COLUMNS)
    for name in selected:
        with ExitStack() as stack:
            keys_file = None
            if name == TENANTS:
                folder = stack.enter_context(TemporaryDirectory(prefix="rope-bench-"))
                keys_file = Path(folder) / "keys.toml"
                write_keys(keys_file)
            service = started(
                serve_core, load_core, seconds, status=args.status_port, keys_file=keys_file
            )
            subject = stack.enter_context(service)
            try:
                yield from ALL_PROFILES[name](subject)
            except LoadError as exc:
                yield {"profile": name, "failed": str(exc)}


def _cells(row: Row) -> list[object]:
    if "failed" in row:
        return [row["profile"], f"failed: {row['failed']}"] + [""] * (len(COLUMNS) - 2)
    answers = [f"{status}: {count:,}" for status, count in row["statuses"].items()]
    answers += [
        f"{name.replace('_', ' ')} {row[name]:,}" for name in WITHOUT_ANSWER if row.get(name)
    ]
    missed = [name for name, met in row["bars"].items() if not met]
    slip = row["slip"]["p99_ms"] if row.get("slip") else None
    return [
        row["profile"],
        f"{row['offered_rate']:,.0f}" if "offered_rate" in row else "",
        f"{row['goodput']:,.0f}",
        f"{row['share']:.0%}" if "share" in row else "",
        ", ".join(answers),
        _latencies(row.get("refused"), "p50_ms", "p99_ms", "max_ms"),
        _latencies(row["accepted"], "p50_ms", "p99_ms"),
        " / ".join(map(format_cell, row.get("health_p99_ms", []))),
        f"{row['peak_mib']:,.0f} of {row['most_mib']:,.0f}" if "peak_mib" in row else "",
        row.get("connections", ""),
        "" if row.get("late_calls") is None else f"{row['late_calls']:.0f}",
        f"{max(0, row['others']):.0%}" if "others" in row else "",
        "" if slip is None else format_cell(slip) + (" !" if slip > MAX_SLIP_MS else ""),
        f"{len(missed)} of {len(row['bars'])}" + (": " if missed else "") + "; ".join(missed),
    ]


def _latencies(latencies: dict[str, float] | None, *names: str) -> str:
    return " / ".join(format_cell(float(latencies[name])) for name in names) if latencies else ""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a quarter of a second for each row")
    parser.add_argument("--seconds", type=float, default=30, help="of each row; default: 30")
    parser.add_argument("--only", default="", help="profiles whose name contains this")
    parser.add_argument(
        "--status-port", action="store_true", help="set ROPE_STATUS_PORT, and probe it as well"
    )
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
