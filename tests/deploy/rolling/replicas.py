"""Replicas that restart in place, in one of two versions, and HAProxy in front of them.

HAProxy reads `deploy/haproxy/haproxy.cfg` as it is; addresses come from the environment.
"""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import httpx

from tests.conftest import ROOT
from tests.free_ports import free_ports
from tests.waiting import wait_until

CONFIG = ROOT / "deploy" / "haproxy" / "haproxy.cfg"
NAMES = ("rope-1", "rope-2")
SESSION_KEY = "a key of all replicas"
DRAIN_DELAY_S = "2"
"""Less than the default, for short tests. HAProxy stops sending requests after 1.5 s."""


def second_version(folder: Path, version: str) -> Path:
    """Make a copy of the service with another version number; return what PYTHONPATH needs."""
    copy = folder / "service"
    copy.mkdir(parents=True)
    for path in (ROOT / "service").iterdir():
        if path.name not in ("__init__.py", "__pycache__"):
            (copy / path.name).symlink_to(path)
    text = (ROOT / "service" / "__init__.py").read_text()
    changed, count = re.subn(r'__version__ = ".*"', f'__version__ = "{version}"', text)
    assert count == 1
    (copy / "__init__.py").write_text(changed)
    return folder


class Replica:
    """A service that is started, drained and started again at the same ports."""

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.http_port, self.grpc_port, self.status_port = free_ports(3)
        self.process: subprocess.Popen[bytes] | None = None
        self._log = log

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def start(self, code: Path = ROOT, **variables: str) -> None:
        """Start a process, and wait until it is ready; see `launch`."""
        self.launch(code, **variables)
        self.wait()

    def launch(self, code: Path = ROOT, **variables: str) -> None:
        """Start a process.

        Args:
            code: the folder that has the package `service`.
            variables: environment variables.
        """
        environment = {n: v for n, v in os.environ.items() if n != "GLIBC_TUNABLES"}
        environment |= {
            "PYTHONPATH": f"{code}:{ROOT}",
            "ROPE_HTTP_PORT": str(self.http_port),
            "ROPE_GRPC_PORT": str(self.grpc_port),
            "ROPE_STATUS_PORT": str(self.status_port),
            "ROPE_DEVICE": "cpu",
            "ROPE_KV_BYTES": str(2**26),
            "ROPE_SESSION_OWNER": self.name,
            "ROPE_SESSION_KEY": SESSION_KEY,
            "ROPE_DRAIN_DELAY_S": DRAIN_DELAY_S,
            "ROPE_LOG_LEVEL": "warning",
            **variables,
        }
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service"], cwd=code, env=environment, stdout=log, stderr=log
            )

    def wait(self) -> None:
        """Wait until the process is ready."""
        assert self.process is not None
        wait_until(self._is_ready_or_ended, 60, interval_s=0.05)
        assert self.process.poll() is None, self._log.read_text()[-2000:]

    def stop(self) -> None:
        """Send SIGTERM, and wait for the exit."""
        self.terminate()
        self.wait_for_exit()

    def wait_for_exit(self) -> None:
        """Wait until the process has drained and ended."""
        assert self.process is not None
        assert self.process.wait(60) == 0, self._log.read_text()[-2000:]

    def terminate(self) -> None:
        """Send SIGTERM."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the process at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _is_ready_or_ended(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            return True
        try:
            url = f"http://127.0.0.1:{self.status_port}/readyz"
            return httpx.get(url, timeout=5).status_code == 200
        except httpx.TransportError:
            return False


class ReplicaPorts(Protocol):
    """Ports of a replica on 127.0.0.1."""

    http_port: int
    grpc_port: int
    status_port: int


class Haproxy:
    """A running HAProxy."""

    def __init__(
        self,
        process: subprocess.Popen[bytes] | None,
        ports: Sequence[int],
        host: str = "127.0.0.1",
        log: Path = Path(os.devnull),
    ) -> None:
        self.process = process
        self.log = log
        self.http_port, self.grpc_port, stats_port = ports
        self.url = f"http://{host}:{self.http_port}"
        self.stats_url = f"http://{host}:{stats_port}"

    def rows(self) -> dict[tuple[str, str], dict[str, str]]:
        """Return the statistics of each (proxy, server)."""
        try:
            text = httpx.get(f"{self.stats_url}/;csv").text
        except httpx.TransportError:  # it has not started
            return {}
        rows = csv.DictReader(text.removeprefix("# ").splitlines())
        return {(row["pxname"], row["svname"]): row for row in rows}

    def reload(self) -> None:
        """Let a new worker read the config; the old one finishes its requests."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        before = children.read_text().split()
        self.process.send_signal(signal.SIGUSR2)
        wait_until(lambda: not {*before} >= {*children.read_text().split()} != set(), 30)

    def wait_for(self, *states: str) -> None:
        """Wait until the replicas have these states, over HTTP and gRPC."""

        def is_there() -> bool:
            rows = self.rows()
            return bool(rows) and all(
                rows[backend, name]["status"].split()[0] == state
                for backend in ("replicas", "replicas-grpc")
                for name, state in zip(NAMES, states, strict=True)
            )

        wait_until(is_there, 30, interval_s=0.02)

    def error_counts(self) -> dict[str, int]:
        """Return the numbers of errors and of repeated requests of both replicas together."""
        names = {"econ": "no connection", "eresp": "broken", "wretr": "repeated", "wredis": "moved"}
        rows = self.rows()
        return {
            meaning: sum(int(rows["replicas", name][field] or 0) for name in NAMES)
            for field, meaning in names.items()
        }


def environment_of(replicas: Sequence[ReplicaPorts], ports: list[int]) -> dict[str, str]:
    """Return the variables of haproxy.cfg."""
    listeners = zip(("HTTP", "GRPC", "METRICS"), ports, strict=True)
    variables = {f"BIND_{name}": f"127.0.0.1:{port}" for name, port in listeners}
    for number, replica in enumerate(replicas, 1):
        variables[f"ROPE_{number}"] = "127.0.0.1"
        variables[f"ROPE_HTTP_PORT_{number}"] = str(replica.http_port)
        variables[f"ROPE_GRPC_PORT_{number}"] = str(replica.grpc_port)
        variables[f"ROPE_STATUS_PORT_{number}"] = str(replica.status_port)
    return {**os.environ, **variables}


def find_haproxy() -> str | None:
    """Return the path of HAProxy. Debian installs it in /usr/sbin, which is not in every PATH."""
    return shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")


@contextmanager
def haproxy(
    replicas: Sequence[ReplicaPorts],
    log: Path,
    config: Path = CONFIG,
    *,
    prefix: Sequence[str] = (),
    states: tuple[str, str] = ("UP", "UP"),
) -> Iterator[Haproxy]:
    """Start HAProxy in front of two replicas, as its image does.

    Args:
        replicas: their ports.
        log: file for the output of HAProxy.
        config: configuration file of HAProxy.
        prefix: words before the command.
        states: of the replicas; this function waits until HAProxy's checks have found them.
    """
    ports = free_ports(3)
    command = [*prefix, find_haproxy() or "haproxy", "-W", "-db", "-f", str(config)]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env=environment_of(replicas, ports), stdout=file, stderr=file
        )
    started = Haproxy(process, ports, log=log)
    try:
        started.wait_for(*states)
        yield started
    finally:
        process.terminate()
        process.wait()
