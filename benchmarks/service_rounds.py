"""Rounds of one workload: plain torch, echo and service are interleaved; medians of the rounds."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import workloads, wrk
from benchmarks.floor_worker import Floor, Worker
from benchmarks.servers import Server
from benchmarks.table import Row
from benchmarks.workloads import Workload
from benchmarks.wrk import LoadError, Measurement

Round = tuple[Floor, Measurement, Measurement]
"""Plain torch, the echo, the service."""


@dataclass(frozen=True, slots=True)
class ServiceBenchmark:
    """The processes under measurement, and how many rounds to run."""

    echo: Server
    service: Server
    worker: Worker
    load_core: int
    rounds: int
    quick: bool

    def rows(self, workload: Workload) -> Iterator[Row]:
        """Yield a row for each number of connections.

        Raises:
            SystemExit: a response is wrong; nothing is timed then.
        """
        with wrk.load_files(workload) as files:
            bodies = [path.read_bytes() for path in files[1:]]
            response_bytes = [
                self._check(workload, length, body)
                for length, body in zip(workload.lengths, bodies, strict=True)
            ]
            min_bytes = min(map(len, bodies)), min(response_bytes)
            for connections in (8,) if self.quick else workload.connections:
                row: Row = {"workload": f"{workload.name}, {connections}"}
                try:
                    rounds = [
                        self._round(workload, files, connections, min_bytes)
                        for _ in range(self.rounds)
                    ]
                    yield row | _medians(rounds)
                except LoadError as exc:
                    yield row | {"failed": str(exc)}

    def _round(
        self, workload: Workload, files: list[Path], connections: int, min_bytes: tuple[int, int]
    ) -> Round:
        seconds = workload.seconds // 2 if self.quick else workload.seconds
        floor = self.worker.measure(workload.name, min(1.0, seconds / 4))
        load = wrk.Load(self.load_core, workload.path, files, connections, seconds)
        return (
            floor,
            load.measure(self.echo, min_bytes[0]),
            load.measure(self.service, min_bytes[1]),
        )

    def _check(self, workload: Workload, length: int, body: bytes) -> int:
        """Check one response of the echo and of the service; return the latter's size in bytes."""
        status, response = self.echo.request("POST", workload.path, body)
        if status != 200 or response != body:
            raise SystemExit(f"{workload.name}: the echo returns {status}, {len(response)} bytes")
        status, response = self.service.request("POST", workload.path, body)
        if status != 200:
            raise SystemExit(f"{workload.name}: {status} {response[:500]!r}")
        workloads.check_body(workload, length, response)
        return len(response)


def _medians(rounds: list[Round]) -> Row:
    floor, echo, service = zip(*rounds, strict=True)
    etas = [s.rate * (f.wall_s + 1 / e.rate) for f, e, s in rounds]
    rate, t_torch = median(s.rate for s in service), median(f.wall_s for f in floor)
    echo_rate = median(e.rate for e in echo)
    return {
        "rate": rate,
        "x_torch": rate * t_torch,
        "x_echo": rate / echo_rate,
        "eta": median(etas),
        "eta_least": min(etas),
        "eta_most": max(etas),
        "eta_cpu": median((f.cpu_s + e.cpu_s) / s.cpu_s for f, e, s in rounds),
        "p50_ms": median(s.p50_ms for s in service),
        "p99_ms": median(s.p99_ms for s in service),
        "t_torch_us": t_torch * 1e6,
        "t_torch_one_us": median(f.unbatched_wall_s for f in floor) * 1e6,
        "t_echo_us": 1e6 / echo_rate,
        "cpu_us": median(s.cpu_s for s in service) * 1e6,
        "echo_cpu_us": median(e.cpu_s for e in echo) * 1e6,
        "load_busy": max(m.load_busy for m in (*echo, *service)),
    }
