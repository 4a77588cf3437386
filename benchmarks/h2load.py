"""h2load, on a core of its own: one generator for HTTP/1.1 and, with framed messages, for gRPC."""

import re
import resource
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.encodings import Form
from benchmarks.servers import Server
from benchmarks.wrk import Failed

_SAID = re.compile(
    r"([\d.]+) req/s.*?"
    r"(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout.*?"
    r"\((\d+)\) data",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Measured:
    """What some seconds of load gave."""

    rate: float
    """Answers per second."""

    cpu_s: float
    """Processor time of the server for one answer."""

    load_busy: float
    """Share of its core that h2load took; near 1, it measured itself."""


@dataclass(frozen=True, slots=True)
class Load:
    """Requests of one form in a closed loop, `at_once` of them: of gRPC, eight on a connection."""

    core: int
    form: Form
    at_once: int
    seconds: int

    def measure(self, server: Server, least_bytes: int) -> Measured:
        """Put it on a server whose answers have `least_bytes` or more.

        A failure of gRPC is an answer without data, which the sum of the bytes shows.

        Raises:
            Failed: one answer at least was none.
        """
        with TemporaryDirectory(prefix="rope-bench-") as folder:
            body = Path(folder, "body")
            body.write_bytes(self.form.body)
            begun, served, loaded = time.perf_counter(), server.cpu_s(), _children_s()
            run = subprocess.run(self._command(server, body), capture_output=True, text=True)
            took = time.perf_counter() - begun
            served, loaded = server.cpu_s() - served, _children_s() - loaded
        said = _SAID.search(run.stdout)
        if run.returncode or said is None:
            raise Failed(f"h2load: {run.stderr.strip() or run.stdout.strip()}")
        rate, *numbers = said.groups()
        done, succeeded, *others, num_bytes = map(int, numbers)
        if not done or succeeded < done or any(others) or num_bytes < done * least_bytes:
            raise Failed(f"{done} answers, {succeeded} good, {num_bytes} bytes in all")
        return Measured(float(rate), served / done, loaded / took)

    def _command(self, server: Server, body: Path) -> list[str]:
        form = self.form
        pinned = ["taskset", "-c", str(self.core), "h2load", "-D", str(self.seconds)]
        streams = min(8, self.at_once) if form.grpc else 1
        much = [f"-c{self.at_once // streams}", f"-m{streams}", "-d", str(body)]
        for name, value in form.headers.items():
            much += ["-H", f"{name.lower()}: {value}"]
        port = server.grpc_port if form.grpc else server.port
        version = [] if form.grpc else ["--h1"]
        return [*pinned, *version, *much, f"http://127.0.0.1:{port}{form.path}"]


def missing() -> str | None:
    """Return what stands against measuring here."""
    absent = [name for name in ("h2load", "taskset") if not shutil.which(name)]
    needed = "apt-get install nghttp2-client util-linux"
    return f"needs {' and '.join(absent)}: {needed}" if absent else None


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
