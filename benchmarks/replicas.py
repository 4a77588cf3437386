"""Two replicas behind HAProxy, compared with one process: `python -m benchmarks.replicas`.

Three setups take turns in each round: one process, HAProxy with one replica, HAProxy with two. The
first replica has core 0. The load generator, HAProxy and the second replica share core 1, so that
two cores are enough: compare the processor times of a request, and not the rates. "x one" is the
rate divided by that of one process in the same round.

- service us, HAProxy us: processor time of a request in all replicas together, and in HAProxy.
- share: share of the processor time of the busier replica.
- load: share of core 1 that the load generator used.

Needs `haproxy`, `gcc` and `taskset`. Figures are medians of the rounds.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import servers, table
from benchmarks.floor_worker import ENVIRONMENT
from benchmarks.load import Exchange, Load, exchange_files, missing_programs
from benchmarks.servers import Server
from benchmarks.table import Row
from tests.deploy.rolling import replicas
from tests.free_ports import free_port
from tests.service.planned import requests

COLUMNS = {
    "workload, connections": "workload",
    "setup": "setup",
    "requests/s": "rate",
    "x one": "x_one",
    "p50 ms": "p50_ms",
    "p99 ms": "p99_ms",
    "service us": "service_us",
    "HAProxy us": "haproxy_us",
    "share": "share",
    "load": "load_busy",
}
WORKLOADS = {
    "rotate [1,16,8,64] (32 KiB)": lambda seed: requests.rotation(16, seed),
    "rotate [1,1024,8,64] (2 MiB)": lambda seed: requests.rotation(1024, seed),
    "attention S=256 (1.3 MB)": lambda seed: requests.attention(256, seed),
}
ONE, ONE_BEHIND, TWO_BEHIND = "one process", "HAProxy, one", "HAProxy, two"


@dataclass(frozen=True, slots=True)
class Replica:
    """Ports of a replica, 0 for one that is not used."""

    http_port: int
    grpc_port: int
    status_port: int


@dataclass(frozen=True, slots=True)
class Setup:
    """One process, or HAProxy with replicas."""

    name: str
    port: int
    services: Sequence[Server]
    haproxy: Server | None


@contextmanager
def started() -> Iterator[list[Setup]]:
    """Start two replicas and two HAProxies; yield the setups."""
    with ExitStack() as stack:
        found: list[tuple[Server, Replica]] = []
        for core in (0, 1):
            status_port = free_port()
            environment = {**ENVIRONMENT, "ROPE_STATUS_PORT": str(status_port)}
            environment |= {"ROPE_THREADS": "1", "ROPE_LOG_LEVEL": "warning"}
            server = stack.enter_context(servers.started("service", core, environment=environment))
            found.append((server, Replica(server.port, 0, status_port)))
        (first, address), (second, other) = found
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        nothing = Replica(free_port(), 0, free_port())
        proxies = []
        for name, pair, state in (("one", nothing, "DOWN"), ("two", other, "UP")):
            proxy = stack.enter_context(
                replicas.haproxy(
                    [address, pair],
                    folder / name,
                    prefix=["taskset", "-c", "1"],
                    states=("UP", state),
                )
            )
            proxies.append(Server("HAProxy", proxy.process.pid, proxy.http_port, None))
        yield [
            Setup(ONE, first.port, [first], None),
            Setup(ONE_BEHIND, proxies[0].port, [first], proxies[0]),
            Setup(TWO_BEHIND, proxies[1].port, [first, second], proxies[1]),
        ]


def measure(setup: Setup, load: Load, *, compare_bytes: bool = False) -> Row:
    """Send requests to a setup; return its figures."""
    before = [server.cpu().total_s for server in setup.services]
    haproxy_s = setup.haproxy.cpu().total_s if setup.haproxy else 0.0
    figures = load.run(str(setup.port), compare_bytes=compare_bytes)
    taken = [
        server.cpu().total_s - start for server, start in zip(setup.services, before, strict=True)
    ]
    haproxy_s = setup.haproxy.cpu().total_s - haproxy_s if setup.haproxy else 0.0
    responses = figures["responses"]
    return {
        "rate": figures["rate"],
        "p50_ms": figures["p50_ms"],
        "p99_ms": figures["p99_ms"],
        "service_us": sum(taken) / responses * 1e6,
        "haproxy_us": haproxy_s / responses * 1e6,
        "share": max(taken) / sum(taken) if sum(taken) else 1.0,
        "load_busy": figures["cpu_s"] / figures["elapsed_s"],
    }


def rows_of(
    setups: Sequence[Setup],
    name: str,
    exchanges: Sequence[Exchange],
    connections: int,
    rounds: int,
    seconds: float,
) -> Iterator[Row]:
    """Measure all setups in turns; yield a row for each."""
    with exchange_files(exchanges) as files:
        for setup in setups:  # all bytes of each answer are compared before anything is timed
            measure(setup, Load(1, files, connections, 0.3), compare_bytes=True)
        load = Load(1, files, connections, seconds)
        measured = [[measure(setup, load) for setup in setups] for _ in range(rounds)]
        for i, setup in enumerate(setups):
            row: Row = {"workload": f"{name}, {connections}", "setup": setup.name}
            for figure in measured[0][i]:
                row[figure] = median(float(str(each[i][figure])) for each in measured)
            ratios = [
                float(str(each[i]["rate"])) / float(str(each[0]["rate"])) for each in measured
            ]
            row["x_one"] = median(ratios)
            yield row


def main() -> None:
    """Run, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--quick", action="store_true", help="a short run of everything")
    options = parser.parse_args()
    if replicas.find_haproxy() is None or missing_programs():
        raise SystemExit(missing_programs() or "haproxy is missing (Debian: haproxy)")
    if options.quick:
        options.rounds, options.seconds, options.connections = 1, 0.1, [2]
    table.print_machine()
    table.print_header([*COLUMNS])
    with started() as setups:
        for name, make in WORKLOADS.items():
            exchanges = [Exchange(*make(seed)) for seed in range(4)]
            for number in options.connections:
                for row in rows_of(
                    setups, name, exchanges, number, options.rounds, options.seconds
                ):
                    table.print_row(row.get(column, "") for column in COLUMNS.values())


if __name__ == "__main__":
    main()
