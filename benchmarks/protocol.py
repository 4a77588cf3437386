"""One request in each protocol: `python -m benchmarks.protocol`, with `--help` for more.

The server has one core, h2load another, and all rows of a workload take turns in every round: two
floors, which send back what they read (a minimal uvicorn application, and a bare handler of
grpc.aio in the same process), then `/v1` with safetensors, `/v2` with binary tensors, and gRPC with
raw ones. 64 requests are under way at a time: on as many connections of HTTP/1.1, on 8 of gRPC.

- CPU us: processor time of the server for a request, which neighbours disturb least.
- x HTTP echo: requests/s over those of the HTTP echo; "CPU" is the same of processor time.
- x own echo, CPU: over the echo of the same protocol.
- x /v1, CPU: over the safetensors row; what is left of its eta.
- load: the share of its core that h2load took; near 100 %, the row measured h2load.

Medians of the rounds, ratios within each round.
"""

import argparse
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median

from benchmarks import h2load, servers, table, workloads
from benchmarks.encodings import WORKLOADS, Form, ask, forms
from benchmarks.h2load import Load, Measured
from benchmarks.servers import Server
from benchmarks.table import Row
from benchmarks.workloads import Workload
from benchmarks.wrk import Failed

COLUMNS = (
    "workload, form",
    "requests/s",
    "CPU us",
    "x HTTP echo",
    "x HTTP echo, CPU",
    "x own echo, CPU",
    "x /v1, CPU",
    "load",
)
AT_ONCE = 64
HTTP_ECHO, GRPC_ECHO = "HTTP echo", "gRPC echo"

Round = Mapping[str, Measured]
"""By name of the row."""


def main() -> None:
    """Run the command line."""
    args = _arguments()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("needs two cores: one to serve, one to load")
    if why_not := h2load.missing():
        raise SystemExit(why_not)
    table.print_machine(table.machine() | table.versions("grpcio"))
    wanted = [workload for workload in WORKLOADS if args.only in workload.name]
    if not wanted:
        raise SystemExit("no row")
    rows: list[Row] = []
    with (
        servers.started("benchmarks.echo_server", cores[0], grpc=True) as echo,
        servers.started("service", cores[0], grpc=True) as service,
    ):
        table.print_head(COLUMNS)
        for workload in wanted:
            for row in _rows(workload, echo, service, cores[1], 1 if args.quick else args.rounds):
                table.print_row(_cells(row))
                rows.append(row)
    if args.json:
        table.write_json(args.json, rows)


def _rows(
    workload: Workload, echo: Server, service: Server, core: int, rounds: int
) -> Iterator[Row]:
    """Yield a row for each form.

    Raises:
        SystemExit: an answer is wrong, or none; nothing is timed then, or printed.
    """
    asked = forms(workload)
    least = {form.name: _check(workload, form, echo, service) for form in asked}
    seconds = 1 if rounds == 1 else workload.seconds
    native, grpc = asked[0], asked[-1]

    def measure(form: Form, server: Server, least_bytes: int) -> Measured:
        return Load(core, form, AT_ONCE, seconds).measure(server, least_bytes)

    try:
        measured = [
            {
                HTTP_ECHO: measure(native, echo, len(native.body)),
                GRPC_ECHO: measure(grpc, echo, len(grpc.body)),
                **{form.name: measure(form, service, least[form.name]) for form in asked},
            }
            for _ in range(rounds)
        ]
    except Failed as failed:
        raise SystemExit(f"{workload.name}: {failed}") from None
    for name in measured[0]:
        of_grpc = name in (GRPC_ECHO, grpc.name)
        own = GRPC_ECHO if of_grpc else HTTP_ECHO
        yield {"workload": f"{workload.name}, {name}"} | _medians(measured, name, own, native.name)


def _check(workload: Workload, form: Form, echo: Server, service: Server) -> int:
    """Return the bytes of a good answer."""
    sent = form.body[5:] if form.grpc else form.body
    if ask(echo, form) != sent:
        raise SystemExit(f"{form.name}: the echo answers something else")
    answer = ask(service, form)
    workloads.check_tensor(workload, workload.lengths[0], form.read(answer))
    return len(answer)


def _medians(rounds: list[Round], name: str, own: str, native: str) -> Row:
    def over(other: str) -> float:
        return median(each[other].cpu_s / each[name].cpu_s for each in rounds)

    return {
        "rate": median(each[name].rate for each in rounds),
        "cpu_us": median(each[name].cpu_s for each in rounds) * 1e6,
        "x_http_echo": median(each[name].rate / each[HTTP_ECHO].rate for each in rounds),
        "x_http_echo_cpu": over(HTTP_ECHO),
        "x_own_echo_cpu": over(own),
        "x_native_cpu": over(native),
        "load_busy": max(each[name].load_busy for each in rounds),
    }


def _cells(row: Row) -> list[object]:
    return [*list(row.values())[:-1], "{load_busy:.0%}".format_map(row)]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--rounds", type=int, default=7, help="7 where missing")
    parser.add_argument("--only", default="", help="workloads whose name has this in it")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
