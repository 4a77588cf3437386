"""Servers under load: started on one core, looked at through /proc, and stopped."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.floor_worker import ENVIRONMENT
from benchmarks.workloads import MEDIA_TYPE

START_S = 60
HEADERS = {"Content-Type": MEDIA_TYPE}


class Server:
    """A process that listens on a port, or on one of HTTP and one of gRPC."""

    def __init__(self, pid: int, port: int, grpc_port: int | None) -> None:
        self.port = port
        self.grpc_port = grpc_port
        self._proc = Path(f"/proc/{pid}")

    def cpu_s(self) -> float:
        """Return the processor time that all its threads have taken so far."""
        fields = (self._proc / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_bytes(self) -> int:
        """Return the most memory that it has ever had resident."""
        lines = (self._proc / "status").read_text().splitlines()
        (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
        return int(peak) * 1024

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = HEADERS
    ) -> tuple[int, bytes]:
        """Return status and body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


@contextmanager
def started(module: str, core: int, *, grpc: bool = False) -> Iterator[Server]:
    """Start `python -m module` on a core, with gRPC, too; wait until it is ready, and end it."""
    port = _free_port()
    grpc_port = _free_port() if grpc else None
    command = ["taskset", "-c", str(core), sys.executable, "-m", module, "--http-port", str(port)]
    command += ["--grpc-port", str(grpc_port)] if grpc else []
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=ENVIRONMENT)
        try:
            server = Server(process.pid, port, grpc_port)
            try:
                _wait_until_ready(server, process)
            except TimeoutError:
                output.seek(0)
                raise SystemExit(f"{module} did not start:\n{output.read()[-2000:]!r}") from None
            yield server
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(server: Server, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            if server.ask("GET", "/readyz")[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise TimeoutError


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
