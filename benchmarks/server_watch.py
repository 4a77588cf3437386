"""A server observed while it is under load: its health routes, memory and descriptors."""

import http.client
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread

from benchmarks.servers import Server

INTERVAL_S = 0.05
TIMEOUT_S = 10


@dataclass(slots=True)
class Observed:
    """Filled while the server is watched."""

    health_ms: dict[int, list[float]]
    """By port, the latency of each request to /healthz from the time at which it was due; infinite
    if it failed."""

    peak_bytes: int = 0
    peak_open_files: int = 0

    def health_p99_ms(self, port: int) -> float:
        """Return the p99 of the requests to /healthz on a port."""
        latencies = sorted(self.health_ms[port])
        return latencies[len(latencies) * 99 // 100]


@contextmanager
def watching(server: Server, health_ports: Sequence[int]) -> Iterator[Observed]:
    """Watch a server on threads of this process until the end of the context."""
    observed = Observed({port: [] for port in health_ports})
    stop = Event()
    threads = [Thread(target=_sample, args=(server, observed, stop))]
    threads += [
        Thread(target=_Probe(port, latencies, stop).run)
        for port, latencies in observed.health_ms.items()
    ]
    for thread in threads:
        thread.start()
    try:
        yield observed
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _sample(server: Server, observed: Observed, stop: Event) -> None:
    while True:
        observed.peak_bytes = max(observed.peak_bytes, server.resident_bytes())
        observed.peak_open_files = max(observed.peak_open_files, server.open_files())
        if stop.wait(INTERVAL_S):
            return


@dataclass(slots=True)
class _Probe:
    """Requests to /healthz on a connection of their own, which is opened again if it ends."""

    port: int
    latencies_ms: list[float]
    stop: Event
    connection: http.client.HTTPConnection = field(init=False)

    def run(self) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        due = time.monotonic()
        while True:
            answered = self._request()
            elapsed_ms = (time.monotonic() - due) * 1e3
            self.latencies_ms.append(elapsed_ms if answered else math.inf)
            due += INTERVAL_S
            if self.stop.wait(max(0, due - time.monotonic())):
                break
        self.connection.close()

    def _request(self) -> bool:
        try:
            self.connection.request("GET", "/healthz")
            response = self.connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            self.connection.close()
            return False
        return response.status == 200
