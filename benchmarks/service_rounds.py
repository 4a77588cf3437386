"""Rounds of one workload: bare call, echo and service take turns, then medians are taken."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import workloads, wrk
from benchmarks.floor_worker import Floor, Worker
from benchmarks.servers import Server
from benchmarks.table import Row
from benchmarks.workloads import Workload
from benchmarks.wrk import Failed, Measured

Round = tuple[Floor, Measured, Measured]
"""The bare call, the echo, the service."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What is running, and how long to look at it."""

    echo: Server
    service: Server
    worker: Worker
    load_core: int
    rounds: int
    quick: bool

    def rows(self, workload: Workload) -> Iterator[Row]:
        """Yield a row for each number of connections.

        Raises:
            SystemExit: an answer is wrong; nothing is timed then.
        """
        with wrk.prepared(workload) as files:
            bodies = [path.read_bytes() for path in files[1:]]
            answers = [
                self._check(workload, length, body)
                for length, body in zip(workload.lengths, bodies, strict=True)
            ]
            least = min(map(len, bodies)), min(answers)
            for connections in (8,) if self.quick else workload.connections:
                row: Row = {"workload": f"{workload.name}, {connections}"}
                try:
                    rounds = [
                        self._round(workload, files, connections, least) for _ in range(self.rounds)
                    ]
                    yield row | _medians(rounds)
                except Failed as failed:
                    yield row | {"failed": str(failed)}

    def _round(
        self, workload: Workload, files: list[Path], connections: int, least: tuple[int, int]
    ) -> Round:
        seconds = workload.seconds // 2 if self.quick else workload.seconds
        bare = self.worker.measure(workload.name, min(1.0, seconds / 4))
        sent = wrk.Load(self.load_core, workload.path, files, connections, seconds)
        return bare, sent.measure(self.echo, least[0]), sent.measure(self.service, least[1])

    def _check(self, workload: Workload, length: int, body: bytes) -> int:
        status, answer = self.echo.ask("POST", workload.path, body)
        if status != 200 or answer != body:
            raise SystemExit(f"{workload.name}: the echo answers {status}, {len(answer)} bytes")
        status, answer = self.service.ask("POST", workload.path, body)
        if status != 200:
            raise SystemExit(f"{workload.name}: {status} {answer[:500]!r}")
        workloads.check(workload, length, answer)
        return len(answer)


def _medians(rounds: list[Round]) -> Row:
    bare, echo, served = zip(*rounds, strict=True)
    etas = [s.rate * (b.wall_s + 1 / e.rate) for b, e, s in rounds]
    rate, t_torch = median(s.rate for s in served), median(b.wall_s for b in bare)
    echo_rate = median(e.rate for e in echo)
    return {
        "rate": rate,
        "x_torch": rate * t_torch,
        "x_echo": rate / echo_rate,
        "eta": median(etas),
        "eta_least": min(etas),
        "eta_most": max(etas),
        "eta_cpu": median((b.cpu_s + e.cpu_s) / s.cpu_s for b, e, s in rounds),
        "p50_ms": median(s.p50_ms for s in served),
        "p99_ms": median(s.p99_ms for s in served),
        "t_torch_us": t_torch * 1e6,
        "t_torch_one_us": median(b.one_by_one_s for b in bare) * 1e6,
        "t_echo_us": 1e6 / echo_rate,
        "cpu_us": median(s.cpu_s for s in served) * 1e6,
        "echo_cpu_us": median(e.cpu_s for e in echo) * 1e6,
        "load_busy": max(m.load_busy for m in (*echo, *served)),
    }
