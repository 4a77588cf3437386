"""Servers on a device that fails: the exit code, and the status of /readyz before the exit.

Exit code 70 is a lost device (an illegal address), 71 a stuck device (a kernel of 40 s with a
limit of 5 s).
"""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

import httpx
import torch

from benchmarks.first_run.row import Row, failure
from benchmarks.gpu_cases.sizes import Sizes

EXIT_CODES = {"lost": 70, "stuck": 71}
STUCK_LIMIT_S = 5
START_TIMEOUT_S = 60.0
EXIT_TIMEOUT_S = 20.0
"""Limit from the request to the exit of the process."""

POLL_S = 0.05
ROOT = Path(__file__).parents[2]


def rows(sizes: Sizes) -> Iterator[Row]:
    """Yield a row for each kind of failure. Both servers run at the same time."""
    servers = {kind: _Server(kind, sizes.dry_run) for kind in EXIT_CODES}
    try:
        for kind, server in servers.items():
            yield _check(kind, server, sizes.dry_run)
    finally:
        for server in servers.values():
            server.close()


class _Server:
    def __init__(self, kind: str, dry_run: bool) -> None:
        with socket.socket() as http, socket.socket() as grpc:
            for free_socket in (http, grpc):
                free_socket.bind(("127.0.0.1", 0))
            port, grpc_port = (free_socket.getsockname()[1] for free_socket in (http, grpc))
        settings = {"HTTP_PORT": port, "GRPC_PORT": grpc_port, "WARM_UP_SHAPES": ""}
        settings |= {"DRAIN_DELAY_S": 1, "DEVICE_STUCK_S": 1 if dry_run else STUCK_LIMIT_S}
        command = [sys.executable, "-m", "benchmarks.first_run.failing_server", kind]
        self.log = TemporaryFile("w+")  # noqa: SIM115 - closed when the process ends
        self.process = subprocess.Popen(
            [*command, "--dry-run"] if dry_run else command,
            cwd=ROOT,
            env=os.environ | {f"ROPE_{name}": str(value) for name, value in settings.items()},
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=EXIT_TIMEOUT_S)

    def readyz_status(self) -> int | None:
        """Return the status of /readyz, or None if there is no response."""
        with suppress(httpx.TransportError):
            return self._client.get("/readyz").status_code
        return None

    def trigger_fault(self) -> None:
        """Send the request that triggers the fault, and ignore the response."""
        from service.wire import Message
        from service.wire import safetensors_codec as codec

        body = b"".join(codec.encode(Message({"q": torch.ones(1, 1000, 8, 64)})))
        with suppress(httpx.TransportError):
            headers = {"content-type": codec.media_type}
            self._client.post("/v1/rotate", content=body, headers=headers)

    def close(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.wait()
        self._client.close()
        self.log.close()

    def log_tail(self) -> str:
        """Return the end of the server's output."""
        self.log.seek(0)
        return self.log.read()[-200:]


def _check(kind: str, server: _Server, dry_run: bool) -> Row:
    name, expected = f"device {kind}", EXIT_CODES[kind]
    deadline = time.monotonic() + START_TIMEOUT_S
    while server.readyz_status() != 200:
        if time.monotonic() > deadline or server.process.poll() is not None:
            return failure(name, f"the server did not become ready: {server.log_tail()}")
        time.sleep(POLL_S)
    start = time.monotonic()
    request = threading.Thread(target=server.trigger_fault)
    request.start()
    statuses: set[int | None] = set()
    while server.process.poll() is None and time.monotonic() < start + EXIT_TIMEOUT_S:
        statuses.add(server.readyz_status())
        time.sleep(POLL_S)
    code = server.process.poll()
    if code is None:
        server.process.kill()
    request.join()
    duration = "" if dry_run else f" after {time.monotonic() - start:.1f} s"
    note = f"exit code {code}{duration}, /readyz 503 {'seen' if 503 in statuses else 'not seen'}"
    if code != expected or 503 not in statuses:
        return failure(name, f"{note}: {server.log_tail()}")
    return Row(name=name, goal=f"exit code {expected}", verdict="met", note=note)
