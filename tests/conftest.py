"""What all tests share: a quiet hypothesis, an interpreter of kernels, and the real service."""

import gc
import json
import logging
import os
import ssl
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import orjson
import pytest
import torch
from hypothesis import settings

from rope_core.presets import built_in
from tests.fork_server import ForkedProcess, ForkServer
from tests.free_ports import free_ports
from tests.waiting import wait_until

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is imported

# processes started here replace their program at once, which its handlers of forks know nothing of
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

# each of the many services of the tests would touch 320 MiB before its first request
os.environ.setdefault("ROPE_PREFAULT_BYTES", "0")

# a name in requests of tests, which go to 127.0.0.1
os.environ.setdefault("ROPE_ALLOWED_HOSTS", "a-b.example")

if "PYTEST_XDIST_WORKER" in os.environ:  # beside other processes of tests
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that are started here
    os.environ.setdefault("ROPE_THREADS", "1")  # of services

ROOT = Path(__file__).parents[1]

if os.environ.get("TRITON_INTERPRET") == "1" and find_spec("triton"):
    from tests.kernels import interpreter

    interpreter.install()

# each of the thousands of clients of the tests would read all certificates of the machine
httpx.create_ssl_context = cache(httpx.create_ssl_context)
httpx._transports.default.create_ssl_context = httpx.create_ssl_context

# a busy machine may need more than the 5 s after which httpx gives up
for step in ("connect", "read", "write", "pool"):
    setattr(httpx._config.DEFAULT_TIMEOUT_CONFIG, step, 60.0)

settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--interpret-all", action="store_true", help="interpret kernels in all cases")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Keep what is collected out of the garbage collector: it lives as long as the process.

    Without this, each `gc.collect()` of a test looks through all tests.

    pytest adds its two handlers to the root of all loggers and to each that does not propagate,
    three times for each test: the forty of torch would take half the time of a small test.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        for name, logger in logging.root.manager.loggerDict.items():
            if name.startswith("torch") and isinstance(logger, logging.Logger):
                logger.propagate = True  # the handlers of the root get its lines
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="module", autouse=True)
def presets_as_they_were() -> Iterator[None]:
    """The tests of a file leave the configs of presets, which all tests share, unchanged."""
    before = orjson.dumps([*built_in().values()])
    yield
    assert orjson.dumps([*built_in().values()]) == before


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels run in Triton's interpreter: within bounds, and without NumPy's words of infinity."""
    pytest.importorskip("triton")
    if not os.environ.get("TRITON_INTERPRET"):
        pytest.skip("kernels are compiled here, for a GPU")
    from tests import bounds

    bounds.watch(monkeypatch)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[pytest.TestReport]:
    """Add to a failure what its services have written last, and whether they have ended."""
    report: pytest.TestReport = yield
    if report.failed and isinstance(item, pytest.Function):
        for name, value in item.funcargs.items():
            if isinstance(value, Started):
                text = f"exit code {value.process.poll()}\n{value.log.read_text()[-2000:]}"
                report.sections.append((f"service {name}", text))
    return report


class _UrlAndProcess(NamedTuple):
    url: str
    process: subprocess.Popen[bytes] | ForkedProcess


class Started(_UrlAndProcess):
    """A running service."""

    grpc_target: str
    """Address of its gRPC."""

    log: Path
    """What it has written."""

    def requests_logged(self, request_id: str) -> list[dict[str, Any]]:
        """Return the lines of all requests with that identifier, as soon as there is one."""

        def lines() -> list[dict[str, Any]]:
            whole = self.log.read_text().split("\n")[:-1]
            return [line for line in map(json.loads, whole) if line.get("request_id") == request_id]

        wait_until(lines)
        return lines()


class Serve:
    """Starts services of one's own: `with serve(ROPE_DRAIN_DELAY_S="1") as (url, process)`.

    Args:
        folder: of the log files.
        start_s: most seconds of a start.
        fork_server: forks the services; None: each is started by its command line.
    """

    def __init__(
        self, folder: Path, start_s: float = 60.0, fork_server: ForkServer | None = None
    ) -> None:
        self._folder = folder
        self._start_s = start_s
        self._fork_server = fork_server
        self._count = 0

    @property
    def _log(self) -> Path:
        return self._folder / f"{self._count}.log"

    def last_log(self) -> str:
        """Return what the service started last has written."""
        return self._log.read_text()

    @contextmanager
    def __call__(
        self,
        module: str = "service",
        *,
        forked: bool = True,
        output: int | None = None,
        tls: ssl.SSLContext | None = None,
        **variables: str,
    ) -> Iterator[Started]:
        """Start a service.

        Args:
            module: that is run.
            forked: whether it may be forked from a process that has imported its modules; False:
                it is started by its command line, which takes three seconds more.
            output: file descriptor for its standard output; the log file if None.
            tls: what a client needs, where the variables have the files of a certificate.
            variables: of the environment.
        """
        port, grpc_port = free_ports(2)
        environment = {n: v for n, v in os.environ.items() if n != "GLIBC_TUNABLES"}
        environment |= {"ROPE_HTTP_PORT": str(port), "ROPE_GRPC_PORT": str(grpc_port)}
        environment |= {"ROPE_DEVICE": "cpu", **variables}
        self._count += 1
        log = self._log
        with log.open("wb") as file:
            process: subprocess.Popen[bytes] | ForkedProcess
            can_fork = forked and output is None and ForkServer.can_fork(variables)
            if can_fork and self._fork_server is not None:
                process = self._fork_server.start(module, environment, file.fileno())
            else:
                process = subprocess.Popen(
                    [sys.executable, "-m", module],
                    cwd=ROOT,
                    env=environment,
                    stdout=file if output is None else output,
                    stderr=file,
                )
        scheme = "http" if tls is None else "https"
        started = Started(f"{scheme}://127.0.0.1:{port}", process)
        started.grpc_target = f"127.0.0.1:{environment['ROPE_GRPC_PORT']}"
        started.log = log
        try:
            _wait_until_ready(started.url, process, log, self._start_s, tls)
            yield started
        finally:
            process.kill()
            process.wait()


def _wait_until_ready(
    url: str,
    process: subprocess.Popen[bytes] | ForkedProcess,
    log: Path,
    seconds: float,
    tls: ssl.SSLContext | None,
) -> None:
    with httpx.Client(base_url=url, verify=tls or True) as client:

        def is_ready_or_ended() -> bool:
            try:
                return process.poll() is not None or client.get("/readyz").status_code == 200
            except httpx.TransportError:
                return False

        with suppress(TimeoutError):
            wait_until(is_ready_or_ended, seconds, interval_s=0.1)
            if process.poll() is None:
                return
    raise RuntimeError(f"the service did not become ready:\n{log.read_text()}")


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    with ForkServer() as fork_server:
        yield Serve(tmp_path_factory.mktemp("service"), fork_server=fork_server)


@pytest.fixture(scope="session")
def server(serve: Serve) -> Iterator[Started]:
    """A running service that all tests share, started as an operator starts it."""
    with serve(forked=False) as started:
        yield started


@pytest.fixture(scope="session")
def server_url(server: Started) -> str:
    """The address of the running service that all tests share."""
    return server.url


@pytest.fixture(scope="session")
def grpc_target(server: Started) -> str:
    """The address of its gRPC."""
    return server.grpc_target


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many bad requests were sent, and what could not be run for want of a tool."""
    stats = terminalreporter.stats
    sent = [each.nodeid for name in ("passed", "failed") for each in stats.get(name, [])]
    requests = [node.partition("::test_row[")[2] for node in sent if "::test_row[" in node]
    if requests:
        rows = {request.rstrip("]").partition(" ")[0] for request in requests}
        terminalreporter.write_line(f"bad requests: {len(rows)} rows, {len(requests)} requests")
    skipped = stats.get("skipped", [])
    files = ("test_examples.py", "test_metrics.py", "test_benchmarks.py", "test_load.py")
    reasons = {
        each.longrepr[2]
        for each in skipped
        if each.nodeid.partition("::")[0].endswith(files) or each.nodeid.startswith("tests/page/")
    }
    for reason in sorted(reasons):
        terminalreporter.write_line(f"not run: {reason.removeprefix('Skipped: ')}")
