"""Open-loop load: requests with random arrival times, sent by `open_load.c` from its own core."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.load import Exchange, run_program


@dataclass(frozen=True, slots=True)
class Latencies:
    """Milliseconds from the time at which an arrival was due."""

    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Outcomes of the arrivals of a run."""

    offered: int
    in_deadline: int
    """Responses with status 200 within the deadline."""

    statuses: Mapping[int, int]
    dropped: int
    """Arrivals that found no free connection, so that nothing was sent."""

    not_connected: int
    ended: int
    """Connections that ended without a response."""

    timed_out: int
    opened: int
    """Connections that were opened, those of the warm-up included."""

    accepted: Latencies | None
    """Of the responses with status 200."""

    refused: Latencies | None
    """Of the responses with status 429 or 503."""

    other: Latencies | None
    slip: Latencies | None
    """Delay of the load generator: from the due time of an arrival to its start."""

    gap_mean_s: float
    gap_variance_s2: float
    busy: float
    """Fraction of its core that the load generator used."""


@contextmanager
def request_files(exchanges: Iterable[Exchange]) -> Iterator[list[str]]:
    """Write the requests to a folder; yield the path of each, and the length of its response."""
    with TemporaryDirectory(prefix="rope-bench-") as folder:
        arguments = []
        for i, exchange in enumerate(exchanges):
            path = Path(f"{folder}/request{i}")
            path.write_bytes(exchange.request)
            arguments += [str(path), str(len(exchange.response))]
        yield arguments


@dataclass(frozen=True, slots=True)
class OpenLoad:
    """A Poisson process of arrivals."""

    core: int
    files: Sequence[str]
    """As `request_files` yields them; each arrival sends one of them at random."""

    rate: float
    """Arrivals per second."""

    seconds: float
    deadline_ms: float
    warm_up_s: float = 0
    """Arrivals of this time come before `seconds` and are not counted."""

    connections: int = 256
    """The most that are open at a time."""

    new_connections: bool = False
    """Whether each arrival opens a connection, instead of taking one that is kept alive."""

    seed: int = 0
    timeout_s: float = 10

    def run(self, port: int) -> Arrivals:
        """Load a port of 127.0.0.1.

        Raises:
            LoadError: a response is malformed, or has status 200 and another length.
        """
        options = ["-r", self.rate, "-d", self.seconds, "-l", self.deadline_ms]
        options += ["-w", self.warm_up_s, "-c", self.connections, "-s", self.seed]
        options += ["-t", self.timeout_s, *(["-n"] if self.new_connections else [])]
        printed = run_program("open_load", self.core, [*options, port, *self.files])
        figures = json.loads(printed)
        busy = figures.pop("cpu_s") / figures.pop("elapsed_s")
        statuses = {int(status): count for status, count in figures.pop("statuses").items()}
        groups = {
            name: Latencies(**latencies) if latencies else None
            for name, latencies in figures.pop("latencies").items()
        }
        return Arrivals(**figures, **groups, statuses=statuses, busy=busy)
