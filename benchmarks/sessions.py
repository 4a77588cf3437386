"""Sessions beside their floors: `python -m benchmarks.sessions`, with `--help` for more.

Shapes are those of a layer of Llama 3.1 8B in bfloat16: 32 heads, 8 heads of keys, 128 channels. A
step sends 12 KiB and answers 8 KiB. The service, the echoes and this process take turns on one
core, a round each, so a slow phase of the machine hits all. A round of steps ends at the number of
keys in its row, and the session is truncated before the next.

- echo: a message that comes back, with as many bytes each way over the WebSocket; over HTTP, with
  the bytes of the request both ways.
- in process: the same step by `rope_core.kvcache`: plan, run, commit.
- CPU: processor time of server and client of a call, median of the rounds. It does not count the
  time in which a busy machine runs something else.
- over both: the step minus the echo minus the step in process; p10 is for a busy machine.
- x stateless: how often the time of a step fits into that of a `/v1/attention` with all keys.

Each answer is compared with that of `/v1/attention` before anything is timed. Bars are printed
beside the figures that they bound; a bar that is missed is no failure of the program.
"""

import argparse
import os
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import torch

from benchmarks import servers, session_many, table
from benchmarks.floor_worker import ENVIRONMENT
from benchmarks.servers import Server
from benchmarks.session_clients import HttpConnection, WebSocketConnection
from benchmarks.session_subjects import (
    Echo,
    Stateless,
    Steps,
    StepsHere,
    Subject,
    on_cores,
    quantile_us,
    run_rounds,
)
from benchmarks.table import Row

NUM_KEYS = 128, 1024, 8192
NUM_STEPS = 16
"""Steps of a round."""

KV_BYTES = 2**30
MAX_BODY_BYTES = 2**28 + 2**20
"""An append of 65,536 tokens has 256 MiB, the default, and a header."""

STEP_COLUMNS = (
    *("keys", "call", "p10 us", "p50 us", "p99 us", "CPU us"),
    *("over both, p10", "over both, p50", "over both, CPU"),
)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one length, one short round")
    parser.add_argument("--rounds", type=int, default=40, help="default: 40")
    parser.add_argument("--only", default="", help="steps, rows, prefill, fork or pages")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cores = sorted(os.sched_getaffinity(0))
    table.print_machine()
    environment = {
        **ENVIRONMENT,
        "ROPE_KV_BYTES": str(2**26 if args.quick else KV_BYTES),
        "ROPE_MAX_BODY_BYTES": str(MAX_BODY_BYTES),
    }
    rows: list[Row] = []
    with ExitStack() as stack:
        start = stack.enter_context
        echo = start(servers.started("benchmarks.echo_server", cores[0]))
        service = start(servers.started("service", cores[0], environment=environment))
        if args.only in ("", "steps"):
            with on_cores(cores[:1]):
                rows += _print_steps(service, echo, args)
        if args.only in ("", "rows"):
            with on_cores(cores[:1]):
                rows += session_many.print_rows(service, args.rounds, quick=args.quick)
        if args.only in ("", "prefill"):
            with on_cores(cores[-1:]):
                rows += session_many.print_prefill(service, args.rounds, quick=args.quick)
        if args.only in ("", "fork"):
            rows += session_many.print_fork(service, args.rounds, quick=args.quick)
    if args.only in ("", "pages"):
        rows += session_many.print_pages(args.rounds, quick=args.quick)
    if args.json:
        table.write_json(args.json, rows)


def _print_steps(service: Server, echo: Server, args: argparse.Namespace) -> list[Row]:
    """Print a table of steps of one token."""
    rows: list[Row] = []
    table.print_header([*STEP_COLUMNS, "x stateless"])
    for num_keys in NUM_KEYS[:1] if args.quick else NUM_KEYS:
        num_rounds = 1 if args.quick else max(3, args.rounds * 512 // (512 + num_keys))
        for row in _steps(service, echo, num_keys, num_rounds, quick=args.quick):
            cells = [*(row.get(name, "") for name in STEP_COLUMNS), row.get("x stateless", "")]
            table.print_row(cells)
            rows.append(row)
    print("bars: over both <= 150 us over the WebSocket, 128 keys <= 500 us p50;", end=" ")
    print("x stateless >= 6 at 1,024 keys and >= 20 at 8,192\n")
    return rows


def _steps(
    service: Server, echo: Server, num_keys: int, num_rounds: int, *, quick: bool
) -> list[Row]:
    """Return the rows of one number of keys.

    Raises:
        SystemExit: an answer is wrong; nothing is timed then.
    """
    num_steps = 4 if quick else NUM_STEPS
    with ExitStack() as stack:

        def http(server: Server) -> HttpConnection:
            return stack.enter_context(HttpConnection(server.port))

        stateless = Stateless(1 if quick else 2, num_steps, num_keys, http(service))
        stream = Steps("WebSocket", num_steps, num_keys, http(service), service.port)
        posts = Steps("HTTP", num_steps, num_keys, http(service), None)
        here = StepsHere("in process", num_steps, num_keys)
        answer_bytes = stream.check(stateless.out)
        posts.check(stateless.out)
        here.check(stateless.out)
        echo_stream = stack.enter_context(WebSocketConnection(echo.port, f"/?{answer_bytes}"))
        floors = {
            stream: Echo("WebSocket echo", num_steps, echo_stream, stream.requests[0]),
            posts: Echo("HTTP echo", num_steps, http(echo), posts.requests[0]),
        }
        subjects: list[Subject] = [stateless, here]
        stateless.server = service
        for steps, floor in floors.items():
            steps.server, floor.server = service, echo
            subjects += [floor, steps]
        run_rounds(subjects, num_rounds)
        stream.delete()
        posts.delete()
    rows = []
    for subject in subjects:
        row: Row = {"keys": num_keys, "call": subject.name}
        for name, share in (("p10", 0.1), ("p50", 0.5), ("p99", 0.99)):
            row[f"{name} us"] = quantile_us(subject, share)
        row["CPU us"] = 1e6 * median(subject.cpu_s)
        if (own_floor := floors.get(subject)) is not None:
            for name, share in (("p10", 0.1), ("p50", 0.5)):
                rest = quantile_us(own_floor, share) + quantile_us(here, share)
                row[f"over both, {name}"] = quantile_us(subject, share) - rest
            cpu_s = median(subject.cpu_s) - median(own_floor.cpu_s) - median(here.cpu_s)
            row["over both, CPU"] = 1e6 * cpu_s
            row["x stateless"] = quantile_us(stateless, 0.5) / quantile_us(subject, 0.5)
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
