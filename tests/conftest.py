"""What all tests share: a quiet hypothesis, and the real service on a real socket."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[1]

settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")

Serve = Callable[..., AbstractContextManager[tuple[str, subprocess.Popen[bytes]]]]


@contextmanager
def _serve(log: Path, **variables: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {n: v for n, v in os.environ.items() if n != "GLIBC_TUNABLES"}
    environment |= {"ROPE_HTTP_PORT": str(port), "ROPE_DEVICE": "cpu", **variables}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "service"],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(url, process, log)
        yield url, process
    finally:
        process.kill()
        process.wait()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up and process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"the service did not become ready:\n{log.read_text()}")


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Serve:
    """Start a service of one's own: `with serve(ROPE_DRAIN_DELAY_S="1") as (url, process)`."""
    folder = tmp_path_factory.mktemp("service")
    return lambda **variables: _serve(folder / f"{time.monotonic_ns()}.log", **variables)


@pytest.fixture(scope="session")
def server_url(serve: Serve) -> Iterator[str]:
    """The address of a running service that all tests share."""
    with serve() as (url, _):
        yield url
