"""Servers on a device that fails: the exit code, and what /readyz answers before.

70 is a lost device (an illegal address), 71 a stuck one (a kernel of 40 s, with a limit of 5 s).
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
STUCK_S = 5
START_S = 60.0
END_S = 20.0
"""Seconds from the request to the end of the process, at most."""

POLL_S = 0.05
ROOT = Path(__file__).parents[2]


def rows(sizes: Sizes) -> Iterator[Row]:
    """Yield a row for each way to fail; both servers run at once."""
    servers = {kind: _Server(kind, sizes.dry) for kind in EXIT_CODES}
    try:
        for kind, server in servers.items():
            yield _row(kind, server, sizes.dry)
    finally:
        for server in servers.values():
            server.close()


class _Server:
    def __init__(self, kind: str, dry: bool) -> None:
        with socket.socket() as one, socket.socket() as other:
            for free in (one, other):
                free.bind(("127.0.0.1", 0))
            port, grpc_port = (free.getsockname()[1] for free in (one, other))
        settings = {"HTTP_PORT": port, "GRPC_PORT": grpc_port, "WARM_UP_SHAPES": ""}
        settings |= {"DRAIN_DELAY_S": 1, "DEVICE_STUCK_S": 1 if dry else STUCK_S}
        command = [sys.executable, "-m", "benchmarks.first_run.failing_server", kind]
        self.log = TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        self.process = subprocess.Popen(
            [*command, "--dry-run"] if dry else command,
            cwd=ROOT,
            env=os.environ | {f"ROPE_{name}": str(value) for name, value in settings.items()},
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=END_S)

    def ready(self) -> int | None:
        """Return the status of /readyz, None where nobody answers."""
        with suppress(httpx.TransportError):
            return self._client.get("/readyz").status_code
        return None

    def ask(self) -> None:
        """Send the request that triggers the fault, and ignore what becomes of it."""
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

    def last_log(self) -> str:
        """Return the end of what the server wrote."""
        self.log.seek(0)
        return self.log.read()[-200:]


def _row(kind: str, server: _Server, dry: bool) -> Row:
    name, expected = f"device {kind}", EXIT_CODES[kind]
    until = time.monotonic() + START_S
    while server.ready() != 200:
        if time.monotonic() > until or server.process.poll() is not None:
            return failure(name, f"the server did not become ready: {server.last_log()}")
        time.sleep(POLL_S)
    start = time.monotonic()
    asking = threading.Thread(target=server.ask)
    asking.start()
    statuses: set[int | None] = set()
    while server.process.poll() is None and time.monotonic() < start + END_S:
        statuses.add(server.ready())
        time.sleep(POLL_S)
    code = server.process.poll()
    if code is None:
        server.process.kill()
    asking.join()
    took = "" if dry else f" after {time.monotonic() - start:.1f} s"
    note = f"exit code {code}{took}, /readyz 503 {'seen' if 503 in statuses else 'not seen'}"
    if code != expected or 503 not in statuses:
        return failure(name, f"{note}: {server.last_log()}")
    return Row(name=name, goal=f"exit code {expected}", verdict="met", note=note)
