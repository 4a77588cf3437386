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
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks import encodings, h2load, servers, table
from benchmarks.encodings import ENCODERS, GRPC_PREFIX_BYTES, EncodedRequest
from benchmarks.h2load import Load, Measurement
from benchmarks.load import LoadError
from benchmarks.servers import Server
from benchmarks.table import Row
from benchmarks.workloads import S64, Workload

WORKLOADS = (
    Workload("rotate [1,1,4,64]", (1,), heads=4, seconds=2),
    Workload("rotate [1,128,8,128]", (128,), heads=8, head_dim=128, seconds=2),
    replace(S64, seconds=2),
)
HTTP_ECHO, GRPC_ECHO = "HTTP echo", "gRPC echo"
NATIVE, BINARY, GRPC = "/v1 safetensors", "/v2 binary", "gRPC"

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
    (length,) = workload.lengths
    requests = {name: ENCODERS[name](workload, length) for name in (NATIVE, BINARY, GRPC)}
    for name in (NATIVE, GRPC):
        _check_echo(requests[name], echo)
    min_bytes = {
        name: len(encodings.output(workload, length, request, service))
        for name, request in requests.items()
    }
    seconds = 1 if rounds == 1 else workload.seconds

    def measure(name: str, server: Server, num_bytes: int) -> Measurement:
        return Load(core, requests[name], CONCURRENCY, seconds).measure(server, num_bytes)

    try:
        measured = [
            {
                HTTP_ECHO: measure(NATIVE, echo, len(requests[NATIVE].body)),
                GRPC_ECHO: measure(GRPC, echo, len(requests[GRPC].body)),
                **{name: measure(name, service, min_bytes[name]) for name in requests},
            }
            for _ in range(rounds)
        ]
    except LoadError as exc:
        raise SystemExit(f"{workload.name}: {exc}") from None
    for name in measured[0]:
        same_echo = GRPC_ECHO if name in (GRPC_ECHO, GRPC) else HTTP_ECHO
        row = _medians(measured, name, same_echo, NATIVE)
        yield {"workload": f"{workload.name}, {name}"} | row


def _check_echo(request: EncodedRequest, echo: Server) -> None:
    body = request.body[GRPC_PREFIX_BYTES:] if request.grpc else request.body
    if encodings.send(echo, request) != body:
        raise SystemExit(f"{request.path}: the echo does not return the request body")


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
