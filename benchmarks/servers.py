"""Servers under load: started on one core, observed through /proc, and stopped."""

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

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 20
HEADERS = {"Content-Type": MEDIA_TYPE}


class Server:
    """A process that serves HTTP and, if `grpc_port` is not None, gRPC."""

    def __init__(self, pid: int, port: int, grpc_port: int | None) -> None:
        self.port = port
        self.grpc_port = grpc_port
        self._proc = Path(f"/proc/{pid}")

    def cpu_s(self) -> float:
        """Return the processor time of all threads so far."""
        fields = (self._proc / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_bytes(self) -> int:
        """Return the peak of its resident memory."""
        lines = (self._proc / "status").read_text().splitlines()
        (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
        return int(peak) * 1024

    def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = HEADERS
    ) -> tuple[int, bytes]:
        """Send a request over HTTP; return the status and the body of the response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


@contextmanager
def started(module: str, core: int, *, grpc: bool = False) -> Iterator[Server]:
    """Start `python -m module` on a core, wait until it is ready, and stop it at the end."""
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
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if server.request("GET", "/readyz")[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise TimeoutError


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
