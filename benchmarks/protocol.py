"""One request in each protocol: `python -m benchmarks.protocol`, with `--help` for more.

The servers run on one core and h2load on another. Every round measures all rows of a workload: two
floors that echo the request body (a minimal uvicorn application, and a minimal grpc.aio handler in
the same process), then `/v1` with safetensors, `/v2` with binary tensors, and gRPC with raw
tensors. 64 requests are concurrent: on 64 connections of HTTP/1.1, or on 8 of gRPC.

- CPU us: processor time of the server per request, which depends least on other load.
- x HTTP echo: requests/s divided by those of the HTTP echo; "CPU" is the ratio of processor times.
- x same-protocol echo, CPU: the ratio to the echo of the same protocol.
- x /v1, CPU: the ratio to the safetensors row, that is, of their eta.
- load: the share of its core that h2load used; near 100 %, h2load is the bottleneck.

Figures are medians of the rounds; ratios are taken within each round.
"""

import argparse
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median

from benchmarks import h2load, servers, table, workloads
from benchmarks.encodings import (
    GRPC_PREFIX_BYTES,
    WORKLOADS,
    EncodedRequest,
    encode,
    send,
)
from benchmarks.h2load import Load, Measurement
from benchmarks.servers import Server
from benchmarks.table import Row
from benchmarks.workloads import Workload
from benchmarks.wrk import LoadError

COLUMNS = (
    "workload, protocol",
    "requests/s",
    "CPU us",
    "x HTTP echo",
    "x HTTP echo, CPU",
    "x same-protocol echo, CPU",
    "x /v1, CPU",
    "load",
)
CONCURRENCY = 64
HTTP_ECHO, GRPC_ECHO = "HTTP echo", "gRPC echo"

Round = Mapping[str, Measurement]
"""Measurements by the name of the row."""


def main() -> None:
    """Run the command line."""
    args = _arguments()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("needs two cores: one for the servers, one for the load")
    if missing := h2load.missing_programs():
        raise SystemExit(missing)
    table.print_machine(table.machine() | table.versions("grpcio"))
    selected = [workload for workload in WORKLOADS if args.only in workload.name]
    if not selected:
        raise SystemExit("no row")
    rows: list[Row] = []
    with (
        servers.started("benchmarks.echo_server", cores[0], grpc=True) as echo,
        servers.started("service", cores[0], grpc=True) as service,
    ):
        table.print_header(COLUMNS)
        for workload in selected:
            for row in _rows(workload, echo, service, cores[1], 1 if args.quick else args.rounds):
                table.print_row(_cells(row))
                rows.append(row)
    if args.json:
        table.write_json(args.json, rows)


def _rows(
    workload: Workload, echo: Server, service: Server, core: int, rounds: int
) -> Iterator[Row]:
    """Yield a row for each protocol.

    Raises:
        SystemExit: a request fails, or a response is wrong.
    """
    requests = encode(workload)
    min_bytes = {request.name: _check(workload, request, echo, service) for request in requests}
    seconds = 1 if rounds == 1 else workload.seconds
    native, grpc = requests[0], requests[-1]

    def measure(request: EncodedRequest, server: Server, num_bytes: int) -> Measurement:
        return Load(core, request, CONCURRENCY, seconds).measure(server, num_bytes)

    try:
        measured = [
            {
                HTTP_ECHO: measure(native, echo, len(native.body)),
                GRPC_ECHO: measure(grpc, echo, len(grpc.body)),
                **{
                    request.name: measure(request, service, min_bytes[request.name])
                    for request in requests
                },
            }
            for _ in range(rounds)
        ]
    except LoadError as exc:
        raise SystemExit(f"{workload.name}: {exc}") from None
    for name in measured[0]:
        same_echo = GRPC_ECHO if name in (GRPC_ECHO, grpc.name) else HTTP_ECHO
        row = _medians(measured, name, same_echo, native.name)
        yield {"workload": f"{workload.name}, {name}"} | row


def _check(workload: Workload, request: EncodedRequest, echo: Server, service: Server) -> int:
    """Check the responses of the echo and the service; return the size of the latter in bytes."""
    body = request.body[GRPC_PREFIX_BYTES:] if request.grpc else request.body
    if send(echo, request) != body:
        raise SystemExit(f"{request.name}: the echo does not return the request body")
    response = send(service, request)
    workloads.check_tensor(workload, workload.lengths[0], request.decode(response))
    return len(response)


def _medians(rounds: list[Round], name: str, same_echo: str, native: str) -> Row:
    def cpu_ratio(other: str) -> float:
        return median(r[other].cpu_s / r[name].cpu_s for r in rounds)

    return {
        "rate": median(r[name].rate for r in rounds),
        "cpu_us": median(r[name].cpu_s for r in rounds) * 1e6,
        "x_http_echo": median(r[name].rate / r[HTTP_ECHO].rate for r in rounds),
        "x_http_echo_cpu": cpu_ratio(HTTP_ECHO),
        "x_own_echo_cpu": cpu_ratio(same_echo),
        "x_native_cpu": cpu_ratio(native),
        "load_busy": max(r[name].load_busy for r in rounds),
    }


def _cells(row: Row) -> list[object]:
    return [*list(row.values())[:-1], "{load_busy:.0%}".format_map(row)]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--rounds", type=int, default=7, help="default: 7")
    parser.add_argument("--only", default="", help="only workloads whose name contains this")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
