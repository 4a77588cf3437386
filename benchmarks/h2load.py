"""Load from h2load on its own core: HTTP/1.1, and gRPC with framed messages over HTTP/2."""

import re
import resource
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.encodings import EncodedRequest
from benchmarks.load import LoadError, Measurement
from benchmarks.servers import Server

_SUMMARY = re.compile(
    r"([\d.]+) req/s.*?"
    r"(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout.*?"
    r"\((\d+)\) data",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Load:
    """A closed loop of one request, `concurrency` at a time; gRPC has eight per connection."""

    core: int
    request: EncodedRequest
    concurrency: int
    seconds: int

    def measure(self, server: Server, min_bytes: int) -> Measurement:
        """Send requests to a server whose responses have at least `min_bytes`.

        A failed gRPC call is a response without data, so it is found by the number of bytes.

        Raises:
            LoadError: a request failed.
        """
        with TemporaryDirectory(prefix="rope-bench-") as folder:
            body, log = Path(folder, "body"), Path(folder, "log")
            body.write_bytes(self.request.body)
            start, server_cpu, load_cpu_s = time.perf_counter(), server.cpu(), _children_cpu_s()
            run = subprocess.run(self._command(server, body, log), capture_output=True, text=True)
            elapsed_s = time.perf_counter() - start
            server_cpu = server.cpu() - server_cpu
            load_cpu_s = _children_cpu_s() - load_cpu_s
            latencies_ms = _latencies_ms(log)
        summary = _SUMMARY.search(run.stdout)
        if run.returncode or summary is None:
            raise LoadError(f"h2load: {run.stderr.strip() or run.stdout.strip()}")
        rate, *numbers = summary.groups()
        done, succeeded, *others, num_bytes = map(int, numbers)
        if not done or succeeded < done or any(others) or num_bytes < done * min_bytes:
            raise LoadError(f"{done} responses, {succeeded} succeeded, {num_bytes} bytes in total")
        return Measurement(
            float(rate),
            server_cpu.total_s / done,
            server_cpu.kernel_s / done,
            load_cpu_s / elapsed_s,
            latencies_ms[len(latencies_ms) // 2],
            latencies_ms[len(latencies_ms) * 99 // 100],
            least=None,
        )

    def _command(self, server: Server, body: Path, log: Path) -> list[str]:
        request = self.request
        command = ["taskset", "-c", str(self.core), "h2load", "-D", str(self.seconds)]
        streams = min(8, self.concurrency) if request.grpc else 1
        options = [
            f"-c{self.concurrency // streams}",
            f"-m{streams}",
            "-d",
            str(body),
            f"--log-file={log}",
        ]
        for name, value in request.headers.items():
            options += ["-H", f"{name.lower()}: {value}"]
        port = server.grpc_port if request.grpc else server.port
        version = [] if request.grpc else ["--h1"]
        return [*command, *version, *options, f"http://127.0.0.1:{port}{request.path}"]


def _latencies_ms(log: Path) -> list[float]:
    """Return the sorted latencies of a log: start, status and microseconds in each line."""
    lines = log.read_text().splitlines() if log.exists() else []
    return sorted(int(line.split()[2]) / 1e3 for line in lines)


def missing_programs() -> str | None:
    """Return which programs are missing and how to install them, or None."""
    absent = [name for name in ("h2load", "taskset") if not shutil.which(name)]
    install = "apt-get install nghttp2-client util-linux"
    return f"needs {' and '.join(absent)}: {install}" if absent else None


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
