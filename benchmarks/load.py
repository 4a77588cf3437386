"""A closed loop of HTTP requests on a core of its own; `load.c` sends them and checks responses."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.servers import Server

FOLDER = Path(__file__).parent
BUILD = FOLDER.parent / "build"


@dataclass(frozen=True, slots=True)
class Measurement:
    """Result of one measurement of load."""

    rate: float
    """Responses per second."""

    cpu_s: float
    """Processor time of the server per response."""

    kernel_s: float
    """The part of `cpu_s` that the kernel took."""

    load_busy: float
    """Share of its core that the load generator used. Near 1, it is the bottleneck."""

    p50_ms: float
    p99_ms: float

    least: int | None
    """Responses on the connection with the fewest; None if the load generator does not tell."""


class LoadError(Exception):
    """A response was wrong or missing."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A whole HTTP/1.1 request, and the body that its response must have."""

    request: bytes
    response: bytes


@contextmanager
def exchange_files(exchanges: Sequence[Exchange]) -> Iterator[list[str]]:
    """Write the exchanges to a folder; yield paths: request and response of each in turn."""
    with TemporaryDirectory(prefix="rope-bench-") as folder:
        paths = []
        for i, exchange in enumerate(exchanges):
            for kind, content in (("request", exchange.request), ("response", exchange.response)):
                paths.append(f"{folder}/{kind}{i}")
                Path(paths[-1]).write_bytes(content)
        yield paths


@dataclass(frozen=True, slots=True)
class Load:
    """Load on several connections, each with one request in flight."""

    core: int
    files: Sequence[str]
    """As `exchange_files` yields them."""

    connections: int
    seconds: float
    """With 0, each connection sends one request."""

    timeout_s: float = 60
    """The longest time that a response may take."""

    def run(self, address: str, *, compare_bytes: bool = False) -> dict[str, float]:
        """Load a port of 127.0.0.1, or the path of a Unix-domain socket.

        Without `compare_bytes`, the status and the length of each response are checked.

        Returns:
            The figures that `load.c` prints.

        Raises:
            LoadError: a response is wrong, a connection ends, or a response does not come.
        """
        options = ["-c", self.connections, "-d", self.seconds, "-t", self.timeout_s]
        options += ["-b"] if compare_bytes else []
        printed = run_program("load", self.core, [*options, address, *self.files])
        figures: dict[str, float] = json.loads(printed, parse_int=float)
        return figures

    def measure(self, server: Server, *, compare_bytes: bool = False) -> Measurement:
        """Load a server and take its processor time.

        Raises:
            LoadError: as `run` raises it.
        """
        before = server.cpu()
        try:
            figures = self.run(str(server.port), compare_bytes=compare_bytes)
        except LoadError as exc:
            raise LoadError(f"{server.name}: {exc}") from None
        cpu = server.cpu() - before
        responses = figures["responses"]
        return Measurement(
            figures["rate"],
            cpu.total_s / responses,
            cpu.kernel_s / responses,
            figures["cpu_s"] / figures["elapsed_s"],
            figures["p50_ms"],
            figures["p99_ms"],
            int(figures["least"]),
        )


def missing_programs() -> str | None:
    """Return which programs are missing and how to install them, or None."""
    absent = [name for name in ("gcc", "taskset") if not shutil.which(name)]
    install = "apt-get install gcc libc6-dev util-linux"
    return f"needs {' and '.join(absent)}: {install}" if absent else None


def run_program(name: str, core: int, arguments: Sequence[object]) -> str:
    """Run a load generator on a core; return what it prints.

    Raises:
        LoadError: it fails.
    """
    command = ["taskset", "-c", core, _program(name), *arguments]
    run = subprocess.run([*map(str, command)], capture_output=True, text=True)
    if run.returncode:
        raise LoadError(run.stderr.strip())
    return run.stdout


@cache
def _program(name: str) -> Path:
    """Return the path of a compiled load generator; compile its sources if they have changed."""
    source = FOLDER / f"{name}.c"
    sources = source.read_bytes() + (FOLDER / "load.h").read_bytes()
    program = BUILD / f"{name}-{hashlib.sha256(sources).hexdigest()[:16]}"
    if not program.exists():
        BUILD.mkdir(exist_ok=True)
        partial = program.with_suffix(f".{os.getpid()}")
        command = ["gcc", "-O2", "-std=c11", "-o", str(partial), str(source), "-lm"]
        subprocess.run(command, check=True)
        partial.replace(program)
    return program
