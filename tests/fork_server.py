"""A process that has imported the modules of a service, and forks for each service of the tests.

The imports take three seconds of a processor, and the suite starts dozens of services. A forked
service runs `service.__main__` from its first line, as a process of its own. Where a test is about
the start of the program itself, `serve(forked=False)` starts it by its command line.

`python -m tests.fork_server FD` takes requests from a socket until the other end is closed.
"""

import contextlib
import gc
import json
import os
import runpy
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, Self

from service.__main__ import MALLOC

ROOT = Path(__file__).parents[1]

STATUS = struct.Struct("=i")
"""A message of the server: first the id of a new process, and at its end the exit code."""

OWN_VARIABLES = ("ROPE_", "INJECT_FAULTS", "FAKE")
"""Prefixes of variables that may differ in a forked service. Imports have read all others."""


class ForkedProcess:
    """A process that the server has forked, with the methods of `Popen` that tests use."""

    def __init__(self, link: socket.socket, args: list[str]) -> None:
        self.args = args
        self.returncode: int | None = None
        self._link = link
        message, descriptors, _, _ = socket.recv_fds(link, STATUS.size, 1)
        if not message:
            raise RuntimeError("the server that forks services has ended")
        (self.pid,) = STATUS.unpack(message)
        [self._descriptor] = descriptors  # names this process even after its end

    def poll(self) -> int | None:
        """Return the exit code, None while the process runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code as soon as the process has ended.

        Raises:
            subprocess.TimeoutExpired: it runs longer than `timeout` seconds.
        """
        if self.returncode is None:
            ready = select.select([self._link], [], [], timeout)[0]
            if not ready:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            message = self._link.recv(STATUS.size)
            # the server ends its processes before it ends itself
            self.returncode = STATUS.unpack(message)[0] if message else -signal.SIGKILL
            self._link.close()
            os.close(self._descriptor)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, if the process runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """Forks services; its process starts with the first."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def can_fork(variables: Mapping[str, str]) -> bool:
        """Return whether a service with these variables of its own can be forked here."""
        is_linux = hasattr(os, "pidfd_open")
        return is_linux and all(name.startswith(OWN_VARIABLES) for name in variables)

    def _launch(self) -> None:
        self._socket, server_end = socket.socketpair()
        environment = {
            name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"
        }
        # as `service.__main__` starts itself again; threads of OpenBLAS would not outlive a fork
        environment |= {"GLIBC_TUNABLES": MALLOC, "OPENBLAS_NUM_THREADS": "1"}
        # the service's log finds out at its import what kind of file the standard output is
        with server_end, tempfile.TemporaryFile() as regular_file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fork_server", str(server_end.fileno())],
                pass_fds=[server_end.fileno()],
                cwd=ROOT,
                env=environment,
                stdout=regular_file,
            )

    def start(self, module: str, environment: Mapping[str, str], log: int) -> ForkedProcess:
        """Fork a process that runs `python -m module`.

        Args:
            module: name of the module.
            environment: all environment variables of the process.
            log: descriptor of a regular file for its standard output and standard error.
        """
        if self._process is None:
            self._launch()
        link, server_end = socket.socketpair()
        request = json.dumps({"module": module, "environment": dict(environment)}).encode()
        with server_end:
            descriptors = [server_end.fileno(), log]
            socket.send_fds(self._socket, [STATUS.pack(len(request))], descriptors)
            self._socket.sendall(request)
        return ForkedProcess(link, [sys.executable, "-m", module])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        """End the server, which ends all that it has forked."""
        if self._process is not None:
            self._socket.close()
            self._process.wait()


class _Children:
    """Forks for each request; reports the end of each process."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._links: dict[int, tuple[int, socket.socket]] = {}  # by descriptors of processes
        self._selector = selectors.DefaultSelector()
        self._selector.register(requests, selectors.EVENT_READ)

    def serve(self) -> dict[str, Any]:
        """Return a request, in each process that is forked."""
        while True:
            for key, _ in self._selector.select():
                if key.fd in self._links:
                    self._report_end(key.fd)
                elif (request := self._fork()) is not None:
                    return request

    def _fork(self) -> dict[str, Any] | None:
        """Fork for the next request, and return it in the new process."""
        length, descriptors, _, _ = socket.recv_fds(self._requests, STATUS.size, 2)
        if not length:
            self._end()
        text = self._requests.recv(STATUS.unpack(length)[0], socket.MSG_WAITALL)
        link, log = socket.socket(fileno=descriptors[0]), descriptors[1]
        threads = os.listdir("/proc/self/task")
        assert len(threads) == 1, "a fork would lose the other threads"
        pid = os.fork()
        if pid == 0:
            os.dup2(log, 1)
            os.dup2(log, 2)
            for descriptor in (*descriptors, *self._links, self._requests.fileno()):
                os.close(descriptor)
            link.detach()
            self._requests.detach()
            for _, each in self._links.values():
                each.close()
            self._selector.close()
            return json.loads(text)
        descriptor = os.pidfd_open(pid)
        socket.send_fds(link, [STATUS.pack(pid)], [descriptor])
        os.close(log)
        self._links[descriptor] = pid, link
        self._selector.register(descriptor, selectors.EVENT_READ)
        return None

    def _report_end(self, descriptor: int) -> None:
        self._selector.unregister(descriptor)
        pid, link = self._links.pop(descriptor)
        _, status = os.waitpid(pid, 0)
        with link, contextlib.suppress(OSError):  # nobody waits for it
            link.sendall(STATUS.pack(os.waitstatus_to_exitcode(status)))
        os.close(descriptor)

    def _end(self) -> NoReturn:
        for pid, _ in self._links.values():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os._exit(0)


def main() -> None:
    """Import the service, then fork for each request; the new process runs its module."""
    import_module("service.server.serve")
    import_module("service.read_settings")
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        gc.collect()
        gc.freeze()  # the collector of each process would copy these pages
        request = _Children(requests).serve()
    gc.unfreeze()
    os.environ.clear()
    os.environ.update(request["environment"], GLIBC_TUNABLES=MALLOC)
    sys.argv[1:] = []
    del sys.modules["service.__main__"]  # runs now
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
