"""Start the service, and record its figures during a run of load."""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from http.client import HTTPException
from pathlib import Path

from benchmarks import servers
from benchmarks.floor_worker import ENVIRONMENT
from benchmarks.open_load import OpenLoad
from benchmarks.server_watch import Observed, watching
from benchmarks.servers import Server
from benchmarks.table import Row
from tests.free_ports import free_port

BUDGET_BYTES = 1 << 30
MEMORY_MARGIN_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class Subject:
    """A server under load."""

    server: Server
    health_ports: Sequence[int]
    """Ports whose /healthz is probed: the HTTP port, and the status port if there is one."""

    serve_core: int
    load_core: int
    seconds: float
    idle_bytes: int
    idle_files: int

    def run(self, profile: str, load: OpenLoad) -> Row:
        """Return the figures of a run, without its bars."""
        before, others_before, start = self._late_calls(), self._others_s(), time.monotonic()
        with watching(self.server, self.health_ports) as observed:
            arrivals = load.run(self.server.port)
        others_s = self._others_s() - others_before
        return {
            "others": others_s / (time.monotonic() - start),
            "profile": profile,
            "rate": float(load.rate),
            **asdict(arrivals),
            "offered_rate": arrivals.offered / load.seconds,
            "goodput": arrivals.in_deadline / load.seconds,
            **self._observed(observed),
            "late_calls": _difference(self._late_calls(), before),
        }

    def _others_s(self) -> float:
        """Return how long other programs have run on the core of the server."""
        return servers.core_busy_s(self.serve_core) - self.server.cpu().total_s

    def _observed(self, observed: Observed) -> Row:
        return {
            "health_p99_ms": [observed.health_p99_ms(port) for port in self.health_ports],
            "peak_mib": observed.peak_bytes / 2**20,
            "most_mib": (self.idle_bytes + BUDGET_BYTES + MEMORY_MARGIN_BYTES) / 2**20,
            "connections": observed.peak_open_files - self.idle_files,
        }

    def _late_calls(self) -> float | None:
        """Return the calls whose run ended after their deadline; None: they are not counted."""
        with suppress(OSError, HTTPException):
            _, text = self.server.request("GET", "/metrics")
            found = re.findall(rb"^rope_late_calls_total(?:\{.*\})? (\S+)", text, re.MULTILINE)
            return sum(map(float, found)) if found else None
        return None


def _difference(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


@contextmanager
def started(
    serve_core: int,
    load_core: int,
    seconds: float,
    *,
    status: bool,
    keys_file: Path | None = None,
) -> Iterator[Subject]:
    """Start a service with `BUDGET_BYTES`, and with a status port if `status`."""
    environment = {**ENVIRONMENT, "ROPE_MEMORY_BUDGET_BYTES": str(BUDGET_BYTES)}
    if keys_file is not None:
        environment["ROPE_KEYS_FILE"] = str(keys_file)
    status_ports = [free_port()] if status else []
    for port in status_ports:
        environment["ROPE_STATUS_PORT"] = str(port)
    with servers.started("service", serve_core, environment=environment) as server:
        ports = [server.port, *status_ports]
        idle_files = server.open_files()
        idle_bytes = server.resident_bytes()
        yield Subject(server, ports, serve_core, load_core, seconds, idle_bytes, idle_files)
