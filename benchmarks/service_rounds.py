"""Rounds of one workload: plain torch and the servers take turns; medians of the rounds."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from benchmarks import encodings
from benchmarks.encodings import EncodedRequest
from benchmarks.floor_worker import Floor, Worker
from benchmarks.load import Exchange, Load, LoadError, Measurement, exchange_files
from benchmarks.servers import Server
from benchmarks.table import Row
from benchmarks.workloads import Workload

ECHO, SERVICE, OTHER = "echo", "service", "other"
"""Names of the servers."""

Round = tuple[Floor, Mapping[str, Measurement]]
"""Plain torch, and the servers by name."""


@dataclass(frozen=True, slots=True)
class ServiceBenchmark:
    """The processes under measurement, and how many rounds to run."""

    servers: Mapping[str, Server]
    """ECHO, SERVICE and perhaps OTHER, the service of another checkout."""

    worker: Worker
    load_core: int
    rounds: int
    quick: bool

    def rows(self, workload: Workload) -> Iterator[Row]:
        """Yield a row for each number of connections.

        Raises:
            SystemExit: a response is wrong; nothing is timed then.
        """
        requests = [encodings.encode(workload, length) for length in workload.lengths]
        with ExitStack() as stack:
            files = {
                name: stack.enter_context(exchange_files(self._exchanges(workload, requests, name)))
                for name in self.servers
            }
            for connections in (8,) if self.quick else workload.connections:
                row: Row = {"workload": f"{workload.name}, {connections}"}
                try:
                    rounds = self._rounds(workload, files, connections)
                except LoadError as exc:
                    yield row | {"failed": str(exc)}
                else:
                    yield row | _medians(rounds)

    def _exchanges(
        self, workload: Workload, requests: list[EncodedRequest], name: str
    ) -> list[Exchange]:
        """Return the requests with the responses of a server, which are checked."""
        server = self.servers[name]
        if name == ECHO:
            for request in requests:
                if encodings.send(server, request) != request.body:
                    raise SystemExit(f"{workload.name}: the echo does not return the request body")
            return [Exchange(request.http(), request.body) for request in requests]
        return [
            Exchange(request.http(), encodings.output(workload, length, request, server))
            for length, request in zip(workload.lengths, requests, strict=True)
        ]

    def _rounds(
        self, workload: Workload, files: Mapping[str, list[str]], connections: int
    ) -> list[Round]:
        seconds = workload.seconds / 8 if self.quick else workload.seconds

        def load(name: str, seconds: float) -> Load:
            return Load(self.load_core, files[name], connections, seconds)

        for name, server in self.servers.items():  # not timed: first use of memory and connections
            load(name, seconds / 3).measure(server, compare_bytes=True)
        runs = {
            name: lambda name=name, server=server: load(name, seconds).measure(server)
            for name, server in self.servers.items()
        }
        return [
            (self.worker.measure(workload.name, min(1.0, seconds / 4)), measured)
            for measured in in_turns(runs, self.rounds)
        ]


def in_turns(
    runs: Mapping[str, Callable[[], Measurement]], rounds: int
) -> Iterator[dict[str, Measurement]]:
    """Yield the measurements of each round. The order of the runs changes from round to round."""
    names = [*runs]
    for _ in range(rounds):
        yield {name: runs[name]() for name in names}
        names.reverse()


def _medians(rounds: list[Round]) -> Row:
    def service(value: Callable[[Measurement], float]) -> float:
        return median(value(servers[SERVICE]) for _, servers in rounds)

    def echo(value: Callable[[Measurement], float]) -> float:
        return median(value(servers[ECHO]) for _, servers in rounds)

    def ratio(value: Callable[[Measurement], float], other: str) -> float:
        return median(value(servers[SERVICE]) / value(servers[other]) for _, servers in rounds)

    etas = [s[SERVICE].rate * (floor.wall_s + 1 / s[ECHO].rate) for floor, s in rounds]
    torch_cpu_s = median(floor.cpu_s for floor, _ in rounds)
    row: Row = {
        "rate": service(lambda m: m.rate),
        "eta": median(etas),
        "eta_least": min(etas),
        "eta_most": max(etas),
        "eta_cpu": median((f.cpu_s + s[ECHO].cpu_s) / s[SERVICE].cpu_s for f, s in rounds),
        "x_echo": ratio(lambda m: m.rate, ECHO),
        "p50_x_echo": ratio(lambda m: m.p50_ms, ECHO),
        "p99_x_echo": ratio(lambda m: m.p99_ms, ECHO),
        "p50_ms": service(lambda m: m.p50_ms),
        "p99_ms": service(lambda m: m.p99_ms),
        "least": min(servers[SERVICE].least for _, servers in rounds),
        "load_busy": max(m.load_busy for _, servers in rounds for m in servers.values()),
        "cpu_us": service(lambda m: m.cpu_s) * 1e6,
        "kernel_us": service(lambda m: m.kernel_s) * 1e6,
        "torch_cpu_us": torch_cpu_s * 1e6,
        "rest_us": (service(lambda m: m.cpu_s - m.kernel_s) - torch_cpu_s) * 1e6,
        "echo_cpu_us": echo(lambda m: m.cpu_s) * 1e6,
        "echo_kernel_us": echo(lambda m: m.kernel_s) * 1e6,
        "t_torch_us": median(floor.wall_s for floor, _ in rounds) * 1e6,
        "t_torch_one_us": median(floor.unbatched_wall_s for floor, _ in rounds) * 1e6,
        "t_echo_us": echo(lambda m: 1 / m.rate) * 1e6,
    }
    if OTHER in rounds[0][1]:
        row["x_other"] = ratio(lambda m: m.rate, OTHER)
        row["x_other_cpu"] = 1 / ratio(lambda m: m.cpu_s, OTHER)
    return row
