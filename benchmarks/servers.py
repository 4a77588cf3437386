"""Servers under load: started on one core, observed through /proc, and stopped."""

import http.client
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.floor_worker import ENVIRONMENT
from tests.free_ports import free_port

START_TIMEOUT_S = 180
STOP_TIMEOUT_S = 20


@dataclass(frozen=True, slots=True)
class CpuTime:
    """Processor time in seconds."""

    total_s: float
    kernel_s: float

    def __sub__(self, earlier: "CpuTime") -> "CpuTime":
        return CpuTime(self.total_s - earlier.total_s, self.kernel_s - earlier.kernel_s)


class Server:
    """A process and its descendants, which serve HTTP and, if `grpc_port` is not None, gRPC."""

    def __init__(self, name: str, pid: int, port: int, grpc_port: int | None) -> None:
        self.name = name
        self.port = port
        self.grpc_port = grpc_port
        self._pid = pid

    def processes(self) -> list[int]:
        """Return the ids of the process and of its descendants."""
        children: dict[int, list[int]] = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                parent = int(_stat_fields(path)[1])
                children.setdefault(parent, []).append(int(path.parent.name))
        found = [self._pid]
        for pid in found:
            found += children.get(pid, [])
        return found

    def cpu(self) -> CpuTime:
        """Return the processor time of all threads so far."""
        user = kernel = 0
        for pid in self.processes():
            with suppress(OSError):
                fields = _stat_fields(Path(f"/proc/{pid}/stat"))
                user, kernel = user + int(fields[11]), kernel + int(fields[12])
        tick_s = 1 / os.sysconf("SC_CLK_TCK")
        return CpuTime((user + kernel) * tick_s, kernel * tick_s)

    def run_s(self) -> float:
        """Return the processor time of all threads so far, to the nanosecond."""
        paths = Path("/proc").glob(f"{self._pid}/task/*/schedstat")
        return sum(int(path.read_text().split()[0]) for path in paths) / 1e9

    def peak_bytes(self) -> int:
        """Return the peak of the process's resident memory, without its descendants."""
        lines = Path(f"/proc/{self._pid}/status").read_text().splitlines()
        (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
        return int(peak) * 1024

    def resident_bytes(self) -> int:
        """Return the resident memory of the process, without its descendants."""
        pages = Path(f"/proc/{self._pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def open_files(self) -> int:
        """Return the number of open descriptors of the process."""
        return len(os.listdir(f"/proc/{self._pid}/fd"))

    def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Send a request over HTTP; return the status and the body of the response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def core_busy_s(core: int) -> float:
    """Return how long all programs together have run on a core, without interrupts."""
    lines = Path("/proc/stat").read_text().splitlines()
    (fields,) = (line.split() for line in lines if line.startswith(f"cpu{core} "))
    return sum(map(int, fields[1:4])) / os.sysconf("SC_CLK_TCK")  # user, nice, system


@contextmanager
def started(
    module: str,
    core: int,
    *,
    grpc: bool = False,
    python: str = sys.executable,
    folder: Path | None = None,
    environment: Mapping[str, str] = ENVIRONMENT,
    ready_path: str = "/readyz",
) -> Iterator[Server]:
    """Start `python -m module` on a core, wait until it is ready, and stop it at the end.

    Args:
        module: takes `--http-port` and, if `grpc`, `--grpc-port`.
        core: the core of the process and its descendants.
        grpc: whether it serves gRPC.
        python: the interpreter.
        folder: the folder that has the module; by default the working directory.
        environment: variables of the process.
        ready_path: GET answers 200 here when the server is ready.

    Raises:
        SystemExit: the server does not start.
    """
    port = free_port()
    grpc_port = free_port() if grpc else None
    command = ["taskset", "-c", str(core), python, "-m", module, "--http-port", str(port)]
    command += ["--grpc-port", str(grpc_port)] if grpc else []
    environment = {**environment, "PYTHONPATH": str(folder or Path.cwd())}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, cwd=folder
        )
        server = Server(module, process.pid, port, grpc_port)
        try:
            if not _becomes_ready(server, process, ready_path):
                output.seek(0)
                text = output.read()[-2000:].decode(errors="replace")
                raise SystemExit(f"{module} did not start:\n{text}")
            yield server
        finally:
            _stop(server, process)


def _becomes_ready(server: Server, process: subprocess.Popen[bytes], path: str) -> bool:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError, http.client.HTTPException):
            if server.request("GET", path)[0] == 200:
                return True
        time.sleep(0.05)
    return False


def _stop(server: Server, process: subprocess.Popen[bytes]) -> None:
    descendants = server.processes()[1:]
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid in descendants:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _stat_fields(path: Path) -> list[str]:
    """Return the fields of a process's stat behind its name: state, parent, ..."""
    return path.read_text().rpartition(")")[2].split()
